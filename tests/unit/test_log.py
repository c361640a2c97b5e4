"""Log lines: one record each whatever stands in it, short, and without secrets."""

import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from yarl import URL

from proxy.log import FIELD_MAX, TRACE_MAX, Format, configure, logger, plain, public_url, server_log, tell
from tests.support.leaks import Canaries

HOSTILE = 'a\n{"event":"forged"}\r\n\x1b[31mred\x1b[0m\x00 "quoted" \\n \u2028\x9b é'
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class Lines:
    """What was logged, as text and as lines."""

    def __init__(self) -> None:
        self._raw = io.BytesIO()
        self.stream = io.TextIOWrapper(self._raw, encoding="utf-8", write_through=True)

    def text(self) -> str:
        return self._raw.getvalue().decode()

    def lines(self) -> list[str]:
        return self.text().split("\n")[:-1]

    def records(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.lines()]


def fail(message: str) -> None:
    raise ValueError(message)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """A stream to log to; afterwards logging is as it was."""
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    yield Lines()
    structlog.configure(**before)
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_json_line_has_a_fixed_shape(lines: Lines) -> None:
    """A line is one JSON object: event, room, level, time and the fields with their types."""
    configure("json", "info", lines.stream)
    logger("pull").info("served", status=200, seconds=0.5, kept=True, range=None)
    (record,) = lines.records()
    assert STAMP.fullmatch(record.pop("timestamp"))
    assert record == {
        "event": "served",
        "room": "pull",
        "level": "info",
        "status": 200,
        "seconds": 0.5,
        "kept": True,
        "range": None,
    }


def test_a_human_line_has_a_fixed_shape(lines: Lines) -> None:
    """A line for people begins with time, level and event, without colour."""
    configure("human", "info", lines.stream)
    logger("pull").warning("served stale", age_s=30)
    (line,) = lines.lines()
    assert re.fullmatch(rf"{STAMP.pattern} \[warning *\] served stale +age_s=30 room=pull", line)


@pytest.mark.parametrize("form", ["json", "human"])
def test_the_level_decides_what_is_written(lines: Lines, form: Format) -> None:
    """Below the level nothing is written."""
    configure(form, "warning", lines.stream)
    logger("x").info("quiet")
    logger("x").warning("loud")
    assert [("loud" in line, "quiet" in line) for line in lines.lines()] == [(True, False)]


@pytest.mark.parametrize("form", ["json", "human"])
def test_a_hostile_field_stays_one_record(lines: Lines, form: Format) -> None:
    """Newlines, escape sequences and quotes of a client forge neither a line nor a colour (T16)."""
    configure(form, "info", lines.stream)
    logger("registry").info(HOSTILE, reference=HOSTILE, nested={"a": HOSTILE}, raw=HOSTILE.encode())
    (line,) = lines.lines()
    assert line.isprintable()
    if form == "json":
        (record,) = lines.records()
        assert record["event"] == record["reference"] == HOSTILE.replace("\u2028", "\\u2028").replace("\x9b", "\\x9b")


@pytest.mark.parametrize("form", ["json", "human"])
@given(
    value=st.text(st.characters(), max_size=30)
    | st.text(st.characters(categories=["Cs", "Cc"]), max_size=5)
    | st.integers()
    | st.just(10**5000)
    | st.floats()
    | st.binary(max_size=5)
    | st.lists(st.integers() | st.text(max_size=2), max_size=3)
    | st.dictionaries(st.integers(), st.text(st.characters(categories=["Cs"]), max_size=2), max_size=2)
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_logging_never_fails(lines: Lines, form: Format, value: object) -> None:
    """Any value is logged as one line, since a header that is not UTF-8 must not end its request (I3)."""
    here = Lines()
    configure(form, "info", here.stream)
    logger("x").info("event", value=value)
    assert len(here.text().splitlines() if form == "human" else here.records()) == 1


@pytest.mark.parametrize("form", ["json", "human"])
def test_long_fields_are_cut(lines: Lines, form: Format) -> None:
    """A field of 64 KiB costs a few hundred characters, whatever its type."""
    configure(form, "info", lines.stream)
    logger("x").info("y" * 65536, text="y" * 65536, many=["y" * 100] * 1000, number=10**1000)
    (line,) = lines.lines()
    assert len(line) < 5 * FIELD_MAX
    assert "y" * FIELD_MAX + "…" in line


@pytest.mark.parametrize("form", ["json", "human"])
def test_an_exception_is_one_line(lines: Lines, form: Format) -> None:
    """A trace stands in one line with its event, and a message of a megabyte does not make it longer."""
    configure(form, "info", lines.stream)
    for message in ("small", "x" * 1_000_000 + "the end"):
        try:
            fail(message)
        except ValueError:
            logger("x").exception("it failed")
    first, second = lines.lines()
    assert "ValueError: small" in first
    assert "Traceback" in first
    assert second.rstrip("\"'}").endswith("the end")
    assert len(second) < TRACE_MAX + 500


@pytest.mark.parametrize("form", ["json", "human"])
def test_libraries_log_no_traceback(lines: Lines, form: Format) -> None:
    """What aiohttp and asyncio say about each malformed request or lost connection does not fill the log (V45)."""
    configure(form, "info", lines.stream)
    for name in ("aiohttp.server", "aiohttp.web", "asyncio"):
        try:
            fail("Bad Request")
        except ValueError:
            logging.getLogger(name).exception("Error handling request")
    assert lines.text() == ""


SIGNED = "https://user:{0}@cdn.example:8443/blobs/sha256%3Aabc/data?X-Sig={0}&y=%2F#{0}"


@pytest.mark.parametrize("form", ["json", "human"])
def test_a_signed_url_never_shows_its_secrets(lines: Lines, canaries: Canaries, form: Format) -> None:
    """In fields, events, nested values and traces a URL stands without query, fragment and userinfo (V18, V19)."""
    configure(form, "debug", lines.stream)
    url = SIGNED.format(canaries.secret("signature"))
    log = logger("upstream")
    log.info(f"fetch {url}", url=url, yarl=URL(url, encoded=True), headers={"Location": url}, long=url + "x" * 600)
    try:
        fail(f"cannot connect to ({url}), or '{url}'")
    except ValueError as error:
        log.exception("failed", error=repr(error), cause=error)
    canaries.assert_absent(lines.text())
    assert lines.text().count("https://cdn.example:8443/blobs/sha256%3Aabc/data") >= 8


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://cdn.example/a%2Fb%3A?X-Amz-Signature=s#f", "https://cdn.example/a%2Fb%3A"),
        ("https://u:s@cdn.example:8443/a", "https://cdn.example:8443/a"),
        ("https://s@cdn.example/a", "https://cdn.example/a"),
        ("http://[::1]:5000/v2/?s", "http://[::1]:5000/v2/"),
        ("/v2/x?s", "/v2/x"),
        ("//u:s@h/x?s", "//h/x"),
        ("http://[::1", "(not a URL)"),
        ("http://u:s/p@h/", "(not a URL)"),
        ("http://h:999999/?s", "(not a URL)"),
    ],
)
def test_a_public_url_has_no_secret(url: str, shown: str) -> None:
    """Query, fragment and userinfo are dropped, the rest stands byte for byte; what is no URL is not shown (V18)."""
    assert public_url(url) == shown


def test_a_url_object_is_shown_alike() -> None:
    """A yarl URL is shown as its text is."""
    assert public_url(URL("https://u:s@h/a%2Fb?s", encoded=True)) == "https://h/a%2Fb"


@given(st.text(max_size=60) | st.builds("http://{}@{}".format, st.text(max_size=20), st.text(max_size=20)))
def test_showing_a_url_never_fails(url: str) -> None:
    """Any text is shown as something without a query, and showing it twice changes nothing."""
    shown = public_url(url)
    assert "?" not in shown
    assert "#" not in shown
    assert public_url(shown) == shown


@pytest.mark.parametrize("form", ["json", "human"])
def test_the_line_of_a_request_has_the_shape_of_any_other(lines: Lines, form: Format, tmp_path: Path) -> None:
    """`tell` is a cheaper way to the same line."""
    fields = {"status": 503, "seconds": 0.25, "reference": "a/b:1"}
    with (tmp_path / "log").open("wb") as file, server_log(form, file.fileno()):
        logger("request").warning("request", **fields)
        tell("request", "warning", "request", dict(fields))
    slow, fast = (STAMP.sub("NOW", line) for line in (tmp_path / "log").read_text().splitlines())
    assert slow == fast if form == "human" else orjson.loads(slow) == orjson.loads(fast)


@given(value=st.text(st.characters(categories=["Cs", "Cc", "L"]), max_size=30) | st.binary(max_size=5))
def test_what_is_plain_can_be_told(value: object) -> None:
    """`plain` makes of anything what the JSON encoder takes, and what is one line."""
    text = plain(value)
    assert isinstance(text, str)
    assert orjson.dumps(text).decode().isprintable()


@pytest.mark.parametrize("form", ["json", "human"])
def test_a_servers_log_is_whole_when_it_ends(lines: Lines, form: Format, tmp_path: Path) -> None:
    """Every line of both ways is in the file when the block has ended, in order, and later ones go on as before."""
    with (tmp_path / "log").open("wb") as file, server_log(form, file.fileno()):
        for number in range(1000):
            logger("x").info("slow", number=number)
            tell("x", "info", "fast", {"number": number})
    told = (tmp_path / "log").read_text().splitlines()
    assert ["slow" in line for line in told] == [True, False] * 1000
    assert all(f"{number // 2}" in line for number, line in enumerate(told))
    configure(form, "info", lines.stream)
    tell("x", "info", "later", {})
    assert "later" in lines.text()
