"""Which bytes a GET asks for: every form of Range, in a table."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import RangeInvalid, RangeUnsatisfiable
from proxy.oci import Span
from proxy.server.ranges import HEADER_MAX, RANGES_MAX, Plan, content_range, is_open_ended, is_ranged, plan

SIZE = 2048
ETAG = '"sha256:x"'
WHOLE = Plan((Span(0, SIZE),), whole=True)


def planned(header: str | None, if_range: str | None = None, size: int = SIZE) -> Plan:
    return plan(header, if_range, ETAG, size)


@pytest.mark.parametrize(
    ("header", "shown"),
    [
        ("bytes=500-1499", "bytes 500-1499/2048"),
        ("bytes=500-", "bytes 500-2047/2048"),
        ("bytes=-500", "bytes 1548-2047/2048"),
        ("bytes=2000-5000", "bytes 2000-2047/2048"),
        ("bytes=0-", "bytes 0-2047/2048"),
        ("bytes=0-0", "bytes 0-0/2048"),
        ("bytes=0-1", "bytes 0-1/2048"),
        ("bytes=2047-2047", "bytes 2047-2047/2048"),
        ("bytes=-1", "bytes 2047-2047/2048"),
        ("bytes=-5000", "bytes 0-2047/2048"),
        ("bytes=7-100000000000000000000", "bytes 7-2047/2048"),
        ("bytes=-100000000000000000000", "bytes 0-2047/2048"),
        ("Bytes=0-1", "bytes 0-1/2048"),
        ("bytes = 0 - 1 ", "bytes 0-1/2048"),
        ("bytes=0-1,", "bytes 0-1/2048"),
        ("bytes=,0-1", "bytes 0-1/2048"),
        ("bytes=0-1,9000-", "bytes 0-1/2048"),
    ],
)
def test_a_single_range_is_served(header: str, shown: str) -> None:
    """One range gives one span, exactly as asked, and a Content-Range with a total of digits (B04, B06)."""
    found = planned(header)
    assert not found.whole
    (span,) = found.spans
    assert content_range(span, SIZE) == shown
    assert found.length == span.length


@pytest.mark.parametrize(
    "header",
    [
        "bytes=500-0",
        "bytes=-0",
        "bytes=2048-",
        "bytes=5000-10000",
        "bytes=100000000000000000000-",
        "bytes=",
        "bytes=,",
        "bytes",
        "bytes=-",
        "bytes=a-b",
        "bytes=0",
        "bytes=0-1,x",
        "bytes=0-1-2",
        "bytes=--1",
        "bytes=+0-1",
        "bytes=1_0-20",
        "bytes=0x1-0x2",
        "bytes=٣-٤",
        "bytes=0-" + "9" * 5000,
    ],
    ids=lambda header: header[:30],
)
def test_what_holds_no_byte_is_unsatisfiable(header: str) -> None:
    """A range beyond the end, reversed, empty or malformed is 416 with the size, never a 200 (B04, B05, B09, T10)."""
    with pytest.raises(RangeUnsatisfiable) as caught:
        planned(header)
    assert caught.value.size == SIZE


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-5"])
def test_an_empty_blob_has_no_range(header: str) -> None:
    """Every range of a blob of no bytes is 416; without one it is a 200 of nothing."""
    with pytest.raises(RangeUnsatisfiable):
        planned(header, size=0)
    assert planned(None, size=0) == Plan((Span(0, 0),), whole=True)


@pytest.mark.parametrize("header", [None, "", "items=0-1", "bytesx=0-1", "x-bytes=0-1", "seconds=1-2", "0-1"])
def test_other_units_are_ignored(header: str | None) -> None:
    """No Range, or one of a unit that is not bytes, gives the whole blob (X06)."""
    assert not is_ranged(header)
    assert planned(header) == WHOLE


@pytest.mark.parametrize(
    ("if_range", "whole"),
    [
        (None, False),
        (ETAG, False),
        (f" {ETAG} ", False),
        ('"sha256:y"', True),
        (f"W/{ETAG}", True),
        ("sha256:x", True),
        ("Tue, 24 Nov 2026 00:00:00 GMT", True),
        ("", True),
    ],
)
def test_if_range_is_a_strong_match(if_range: str | None, whole: bool) -> None:
    """Only the blob's own ETag keeps a range a range; a weak one, another one or a date gives the whole (B14)."""
    assert planned("bytes=0-1", if_range).whole is whole


def test_if_range_of_another_version_forgives_any_range() -> None:
    """Where the range does not count, its faults do not either."""
    assert planned("bytes=9000-", '"sha256:y"') == WHOLE
    assert planned("bytes=" + "0-0," * 5000, '"sha256:y"') == WHOLE


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-99,200-299", [(0, 100), (200, 300)]),
        ("bytes=200-299,0-99", [(200, 300), (0, 100)]),
        ("bytes=0-99,100-199", [(0, 100), (100, 200)]),
        ("bytes=-48,0-0", [(2000, 2048), (0, 1)]),
        ("bytes=0-0, -1", [(0, 1), (2047, 2048)]),
        ("bytes=9000-9001,0-1,5-6", [(0, 2), (5, 7)]),
    ],
)
def test_several_ranges_are_served_in_the_order_asked(header: str, spans: list[tuple[int, int]]) -> None:
    """Ranges apart are served whatever their order; those beyond the end are left out (B11)."""
    found = planned(header)
    assert [(span.start, span.stop) for span in found.spans] == spans
    assert found.length == sum(stop - start for start, stop in spans)


@pytest.mark.parametrize(
    "header",
    ["bytes=0-99,50-149", "bytes=0-,-1", "bytes=0-9,0-9", "bytes=-1,-2", "bytes=10-20,0-10", "bytes=0-" + ",0-" * 20],
)
def test_overlapping_ranges_are_refused(header: str) -> None:
    """Asking for one byte twice is 400: then clients fall back to single ranges (B11, B13)."""
    with pytest.raises(RangeInvalid, match="overlapping"):
        planned(header)


def ranges(count: int) -> str:
    return "bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(count))


def test_the_number_of_ranges_is_capped() -> None:
    """64 ranges are served, 65 and 1000 (a longer header still) are 400, also if all lie beyond the end."""
    assert len(planned(ranges(RANGES_MAX)).spans) == RANGES_MAX == 64
    for header in (ranges(RANGES_MAX + 1), ranges(1000), "bytes=" + ",".join(["9000-"] * 65)):
        with pytest.raises(RangeInvalid):
            planned(header)


def test_a_header_too_long_is_refused() -> None:
    """More than 8190 characters of Range are 400, whatever they say (B13)."""
    assert planned("bytes=0-1".ljust(HEADER_MAX)).length == 2
    with pytest.raises(RangeInvalid, match="characters"):
        planned("bytes=0-1".ljust(HEADER_MAX + 1))


NUMBER = st.integers(0, 3000).map(str) | st.just("100000000000000000000") | st.just("")
ITEM = st.builds("{}-{}".format, NUMBER, NUMBER) | st.text(max_size=6)


@given(st.lists(ITEM, max_size=6).map(",".join).map("bytes={}".format) | st.text(max_size=40), st.integers(0, 3000))
def test_a_plan_never_leaves_the_blob_nor_amplifies(header: str, size: int) -> None:
    """Any header gives spans inside the blob, none twice and none empty, or one of two errors of the tree."""
    try:
        found = planned(header, size=size)
    except (RangeInvalid, RangeUnsatisfiable):
        assert is_ranged(header)
        return
    assert found.whole is not is_ranged(header)
    assert found.length <= size
    for span in found.spans:
        assert 0 <= span.start <= span.stop <= size
        assert found.whole or span.length > 0


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(1, 3000))
def test_a_range_is_what_slicing_says(start: int, last: int, size: int) -> None:
    """`bytes=a-b` gives the bytes a to b, both included, as far as they exist."""
    data = bytes(range(256)) * 12
    data = data[:size]
    expected = data[start : last + 1]
    try:
        (span,) = planned(f"bytes={start}-{last}", size=size).spans
    except RangeUnsatisfiable:
        assert not expected
        return
    assert data[span.start : span.stop] == expected
    assert re.fullmatch(rf"bytes \d+-\d+/{size}", content_range(span, size))


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-", True),
        ("bytes=4096- ", True),
        ("Bytes=7-", True),
        ("bytes=0-9", False),
        ("bytes=-9", False),
        ("bytes=0-1,5-", False),
        ("items=0-", False),
        ("", False),
        (None, False),
    ],
)
def test_an_open_ended_range_is_known(header: str | None, expected: bool) -> None:
    """`bytes=N-` alone: who asks so may close before the end."""
    assert is_open_ended(header) is expected
