"""The parts of the benchmarks that decide: what samples mean, what a floor judges, who waits, what is shown."""

import io
import json
from xml.etree import ElementTree

import pytest
from rich.console import Console

from benchmarks import clients, others, report
from benchmarks.bucket import TokenBucket
from benchmarks.figures import (
    CISTERN,
    DIRECT,
    NGINX,
    PLAIN,
    Figure,
    Floor,
    Row,
    at_least,
    at_most,
    percentile,
    ratios,
    summary,
)
from benchmarks.picture import number, picture
from benchmarks.upstream import Request, span_of

FACTS = {
    "cpu": "<a & b>",
    "cores": 2,
    "kernel": "6",
    "python": "3.11",
    "load": (0.5, 0.25, 0.0),
    "first_touch_s_per_gib": 2.5,
}


CURVE = [
    Row(
        "growth",
        f"hot, {at} clients",
        "req/cpu-s",
        {CISTERN: Figure(float(at), 0, 0, 1)},
        curve="hot by clients",
        at=at,
    )
    for at in (1, 10, 100)
]


def row(judged: float | None, floor: Floor | None) -> Row:
    cells = {CISTERN: Figure(2.0, 1.0, 3.0, 3), NGINX: Figure(4.0, 4.0, 4.0, 1)}
    return Row("warm", "warm blob", "GB/cpu-s", cells, judged, floor, "a note")


def test_a_summary_is_the_median_with_its_range() -> None:
    """One disturbed round moves the range, not the value."""
    assert summary([1.0, 9.0, 2.0]) == Figure(2.0, 1.0, 9.0, 3)


def test_a_summary_may_take_the_best() -> None:
    """Where noise only takes away, the best sample stands."""
    assert summary([1.0, 9.0, 2.0], max).value == 9.0


def test_nothing_measured_is_an_error() -> None:
    """No figure is made of no sample."""
    with pytest.raises(ValueError, match="no sample"):
        summary([])
    with pytest.raises(ValueError, match="no percentile"):
        percentile([], 0.5)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_a_sample_by_nearest_rank(share: float, expected: float) -> None:
    """Of 1..100 the 99th percentile is 99: no interpolation, whatever the order."""
    assert percentile([float(n) for n in range(100, 0, -1)], share) == expected


def test_ratios_are_taken_round_by_round() -> None:
    """A round that was slow for both is no difference between them."""
    assert ratios([2.0, 20.0], [1.0, 10.0]) == [2.0, 2.0]


def test_ratios_want_as_many_bases_as_samples() -> None:
    """A missing round is noticed, not shifted over."""
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("judged", "floor", "met"),
    [
        (1.03, at_most(1.03), True),
        (1.04, at_most(1.03), False),
        (0.80, at_least(0.8), True),
        (0.79, at_least(0.8), False),
        (5.0, None, None),
        (None, at_most(1.0), None),
    ],
)
def test_a_floor_judges_its_row(judged: float | None, floor: Floor | None, met: bool | None) -> None:
    """The limit itself is met; a row without one is not judged."""
    assert row(judged, floor).met is met


def test_an_unlimited_bucket_never_waits() -> None:
    """No rate, no delay."""
    assert TokenBucket(None, 1).reserve(1 << 40, 0.0) == 0.0


def test_a_bucket_keeps_its_rate() -> None:
    """After the burst, ten blocks of a tenth of a second each end a second later."""
    bucket = TokenBucket(1000, 100)
    bucket.reserve(100, 10.0)
    delays = [bucket.reserve(100, 10.0) for _ in range(10)]
    assert delays == pytest.approx([n / 10 for n in range(1, 11)])


def test_a_late_sender_makes_up_at_most_one_burst() -> None:
    """A timer that fires late is made up for; an idle hour is not saved."""
    bucket = TokenBucket(1000, 100)
    bucket.reserve(100, 0.0)
    assert bucket.reserve(100, 3600.0) == 0.0
    assert bucket.reserve(100, 3600.0) == pytest.approx(0.1)


def test_connections_share_a_bucket_in_turn() -> None:
    """Of two senders, who asks first is served first, and the second waits for both."""
    bucket = TokenBucket(1000, 1)
    assert bucket.reserve(100, 0.0) < bucket.reserve(100, 0.0)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.123456, "0.12"), (1.026, "1.03"), (12.34, "12.3"), (28923.4, "28923")]
)
def test_a_number_has_three_digits_that_matter(value: float, text: str) -> None:
    """No figure pretends to more than was measured."""
    assert number(value) == text


def test_a_cell_shows_its_spread() -> None:
    """A single sample has none; a subject that was not measured is a dash."""
    assert report.cell(Figure(2.0, 1.0, 3.0, 3)) == "2.00 (1.00…3.00)"
    assert report.cell(Figure(2.0, 2.0, 2.0, 1)) == "2.00"
    assert report.cell(None) == "-"


def test_the_table_says_what_is_not_met() -> None:
    """Ratio, floor and verdict stand in the row's line."""
    console = Console(width=200, file=io.StringIO(), record=True)
    report.show([row(0.5, at_least(0.8)), row(0.9, at_least(0.8))], FACTS, console)
    lines = [line for line in console.export_text().splitlines() if "warm blob" in line and "GB/cpu-s" in line]
    assert ["≥ 0.8" in line for line in lines] == [True, True]
    assert ["NO" in line for line in lines] == [True, False]


def test_the_document_holds_every_row() -> None:
    """JSON that any program reads, verdict included."""
    [found] = json.loads(json.dumps(report.document([row(0.5, at_least(0.8))], FACTS)))["rows"]
    assert (found["judged"], found["met"], found["cells"][NGINX]["value"]) == (0.5, False, 4.0)


def test_the_picture_is_well_formed() -> None:
    """One bar for each subject of a row, and names are escaped."""
    drawn = ElementTree.fromstring(picture([row(0.5, None), *CURVE], "<a & b>"))
    bars = [element for element in drawn.iter() if element.tag.endswith("rect") and element.get("x")]
    assert [float(bar.get("width", "0")) for bar in bars] == [210.0, 420.0]


def test_the_upstream_reads_a_request() -> None:
    """Method, path, query and headers of the clients it meets."""
    request = Request.parse(b"GET /-/blobs?size=5&count=2 HTTP/1.1\r\nHost: x\r\nRange:  bytes=3-\r\n")
    assert (request.method, request.path) == ("GET", "/-/blobs")
    assert request.query == {"size": ["5"], "count": ["2"]}
    assert request.headers["range"] == "bytes=3-"


def test_a_curve_is_a_line_and_not_bars() -> None:
    """The points of one curve are one chart with a line for each subject; no row of it stands among the bars."""
    drawn = picture(CURVE, "a machine")
    assert drawn.count("<polyline") == 2  # the axis and Cistern's
    assert "hot by clients [req/cpu-s]" in drawn
    assert "hot, 10 clients" not in drawn


def test_every_cache_that_was_measured_has_a_column() -> None:
    """Known ones in a fixed order, a target by its own name at the end, no base and nothing that was not there."""
    cells = {name: Figure(1.0, 1.0, 1.0, 1) for name in ("cache.example:80", NGINX, CISTERN, PLAIN, DIRECT)}
    assert report.subjects_of([Row("x", "x", "x", cells)]) == [CISTERN, NGINX, "cache.example:80"]


SIZE = 20 << 20


@pytest.mark.parametrize(
    ("fetches", "needed"),
    [
        pytest.param(clients.containerd("/b", SIZE, chunk=8 << 20, parallel=4), SIZE, id="containerd"),
        pytest.param(clients.nydus("/b", SIZE, reads=7), 7 << 20, id="nydus"),
    ],
)
def test_a_client_needs_what_it_asks_for(fetches: clients.Fetches, needed: int) -> None:
    """containerd's open-ended ranges make up the whole blob, nydus reads whole chunks; none reads a byte twice."""
    assert clients.useful(fetches, SIZE) == needed
    starts = [fetch["range"] for fetch in fetches]
    assert len(starts) == len(set(starts))


def test_stargz_begins_with_its_probe_and_stays_inside() -> None:
    """`bytes=0-1`, the footer, then small reads within the layer."""
    fetches = clients.stargz("/b", SIZE, reads=50)
    assert fetches[0]["range"] == "bytes=0-1"
    assert fetches[1]["range"] == f"bytes={SIZE - 51}-{SIZE - 1}"
    for fetch in fetches:
        first, last = map(int, fetch["range"].removeprefix("bytes=").split("-"))
        assert 0 <= first <= last < SIZE


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("http://cache.example", "/v2/library/app/blobs/sha256:x"),
        ("http://cache.example:5000/", "/v2/library/app/blobs/sha256:x"),
        ("http://cache.example/v2/hub", "/v2/hub/library/app/blobs/sha256:x"),
        ("http://cache.example/hub/x/", "/v2/hub/x/library/app/blobs/sha256:x"),
    ],
)
def test_a_target_is_asked_below_its_path(url: str, path: str) -> None:
    """What stands in the URL's path stands before the repository."""
    assert others.target(url).blob("sha256:x") == path


@pytest.mark.parametrize("url", ["https://cache.example", "cache.example:5000", "http://"])
def test_a_target_is_an_http_url(url: str) -> None:
    """Anything else is refused before something is started."""
    with pytest.raises(ValueError, match="http"):
        others.target(url)


@pytest.mark.parametrize(
    ("header", "span"),
    [("bytes=5-", (5, 100)), ("bytes=5-9", (5, 10)), ("bytes=5-999", (5, 100)), ("bytes=-5", None), (None, None)],
)
def test_the_upstream_knows_the_ranges_that_caches_ask(header: str | None, span: tuple[int, int] | None) -> None:
    """Open-ended and closed ones; anything else is answered whole."""
    assert span_of(header, 100) == span
