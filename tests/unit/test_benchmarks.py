"""The parts of the benchmarks that decide: what samples mean, what a floor judges, who waits, what is shown."""

import io
import json
from xml.etree import ElementTree

import pytest
from rich.console import Console

from benchmarks import report
from benchmarks.bucket import TokenBucket
from benchmarks.figures import CISTERN, NGINX, Figure, Floor, Row, at_least, at_most, percentile, ratios, summary
from benchmarks.upstream import Request

FACTS = {"cpu": "<a & b>", "cores": 2, "kernel": "6", "python": "3.11", "load": (0.5, 0.25, 0.0)}


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
    assert report.number(value) == text


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
    drawn = ElementTree.fromstring(report.picture([row(0.5, None)], FACTS))
    bars = [element for element in drawn.iter() if element.tag.endswith("rect") and element.get("x")]
    assert [float(bar.get("width", "0")) for bar in bars] == [210.0, 420.0]


def test_the_upstream_reads_a_request() -> None:
    """Method, path, query and headers of the clients it meets."""
    request = Request.parse(b"GET /-/blobs?size=5&count=2 HTTP/1.1\r\nHost: x\r\nRange:  bytes=3-\r\n")
    assert (request.method, request.path) == ("GET", "/-/blobs")
    assert request.query == {"size": ["5"], "count": ["2"]}
    assert request.headers["range"] == "bytes=3-"
