"""Structured log lines on standard error, bounded and cheap; secrets never.

Two ways lead here: `logger(room)` for what happens now and then, and `tell` for the line that every request has.

One line per event: `event` and its fields. A field is cut at 512 characters, a trace at 8192; control characters are
escaped in both formats; every URL in a text loses its query and userinfo (`public_url`), since signed URLs carry
secrets there. What a client or an upstream sent never makes logging itself fail.
"""

import io
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, BinaryIO, Literal, TextIO, cast

import orjson
from yarl import URL

from proxy.sink import Loose, Sink


@contextmanager
def _hidden(library: str) -> Iterator[None]:
    """Within the block `import library` fails, unless it is here already."""
    if library in sys.modules:
        yield
        return
    sys.modules[library] = None  # type: ignore[assignment]  # as the import system has it (language reference 5.3.1)
    try:
        yield
    finally:
        del sys.modules[library]


# structlog takes rich, and with it pygments, wherever they are installed, to draw traces that this log never draws:
# 3 MB of a server that idles (measured).
with _hidden("rich"):
    import structlog
    from structlog.typing import EventDict, WrappedLogger

FIELD_MAX = 512
TRACE_MAX = 8192
LINK = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>()]+")
Format = Literal["json", "human"]
Level = Literal["info", "warning"]


def logger(room: str) -> Any:
    """The logger of one room; bound lazily, so that `configure` may come later."""
    return structlog.get_logger(room=room)


def tell(room: str, level: Level, event: str, fields: dict[str, Any]) -> None:
    """One line whose fields are short and plain already (`plain` makes them so), at a fraction of what a logger takes.

    `fields` belongs to the line from now on. For the event loop's thread only.
    """
    if _Out.write is None:
        getattr(logger(room), level)(event, **fields)
    else:
        fields["room"], fields["event"], fields["level"] = room, event, level
        fields["timestamp"] = _Stamp.of(time.time_ns())
        _Out.write(orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE))


class _Out:
    """Where `tell` writes: `sink` is set while a server runs, `write` if its log is JSON too."""

    write: Callable[[bytes], object] | None = None
    sink: Sink | None = None


class _Stamp:
    """ISO time stamps; what stands before the second's fraction is made once a second."""

    second = -1
    prefix = ""

    @classmethod
    def of(cls, nanoseconds: int) -> str:
        second, rest = divmod(nanoseconds, 1_000_000_000)
        if second != cls.second:
            cls.prefix = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            cls.second = second
        return f"{cls.prefix}{rest // 1000:06d}Z"


def public_url(url: URL | str) -> str:
    """A URL as it may be shown: no userinfo, query or fragment. What cannot be read as one is not shown at all."""
    try:
        parsed = URL(str(url), encoded=True)
        named = parsed.with_user(None) if parsed.absolute else parsed
        return str(named.with_query(None).with_fragment(None))
    except ValueError:
        return "(not a URL)"


def bounded(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make every field a short, plain value: what a client sent decides neither a line's length nor its shape."""
    return {key: plain(value, TRACE_MAX if key == "exception" else FIELD_MAX) for key, value in event.items()}


def plain(value: Any, longest: int = FIELD_MAX) -> bool | int | float | str | None:
    """A value as it may stand in a line: short, printable, its URLs without secrets."""
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 1 << 63):
        return value
    text = hex(value) if isinstance(value, int) else str(value)  # an int of 5000 digits has no decimal text
    if "://" in text:
        text = LINK.sub(lambda link: public_url(link[0]), text)
    if len(text) > longest:
        # Of a trace the end is kept: that is where the error stands.
        text = text[:longest] + "…" if longest == FIELD_MAX else "…" + text[-longest:]
    if text.isprintable():
        return text
    # The JSON encoder escapes control characters of ASCII only, and takes no lone surrogate (a header's bad byte).
    return "".join(c if c < "\x7f" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def escaped(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For human lines: no field may start a new line or move the cursor. A trace is a field like any other."""
    return {
        key.replace("exception", "trace"): value.encode("unicode_escape").decode()
        if isinstance(value, str) and not value.isprintable()
        else value
        for key, value in event.items()
    }


def configure(form: Format = "json", level: str = "info", stream: TextIO = sys.stderr) -> None:
    """Send log lines to `stream` (standard error) as `json` or `human` text, from `level` on."""
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        bounded,
    ]
    if form == "json":
        structlog.configure(
            processors=[*shared, structlog.processors.JSONRenderer(serializer=orjson.dumps, default=str)],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.BytesLoggerFactory(file=stream.buffer),
            cache_logger_on_first_use=False,
        )
    else:
        structlog.configure(
            processors=[*shared, escaped, structlog.dev.ConsoleRenderer(colors=False)],
            wrapper_class=structlog.make_filtering_bound_logger(level),
            logger_factory=structlog.WriteLoggerFactory(file=stream),
            cache_logger_on_first_use=False,
        )
    # aiohttp and asyncio log each malformed request with a traceback at ERROR: one line at most, from warning on.
    logging.basicConfig(level=logging.CRITICAL, stream=stream, force=True)


def configure_loosely(form: Format, descriptor: int = 2) -> None:
    """The log of a process that must never wait, and has one thread: lines that find no reader are lost (`Loose`)."""
    raw = cast("BinaryIO", Loose(descriptor))
    configure(form, stream=io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True))


@contextmanager
def server_log(form: Format, descriptor: int = 2, *, is_shared: bool = False) -> Iterator[None]:
    """The log of a server: within the block nobody waits for whoever reads it (`Sink`); at its end all is written.
    `is_shared`: other processes write to the same descriptor.
    """
    _Out.sink = Sink(descriptor, _lost, is_shared=is_shared)
    raw = cast("BinaryIO", _Out.sink)
    configure(form, stream=io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True))
    if form == "json":
        _Out.write = _Out.sink.write
    try:
        yield
    finally:
        last_words()
        _Out.write = _Out.sink = None
        configure(form)


def last_words() -> None:
    """Write what a server's log still holds: for a process that ends at once."""
    if _Out.sink is not None:
        _Out.sink.close()


def _lost(count: int) -> bytes:
    stamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    line = {"event": "log lines were lost", "room": "log", "level": "warning", "count": count, "timestamp": stamp}
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
