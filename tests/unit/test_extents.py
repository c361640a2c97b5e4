"""Runs of bytes that are there, beside a set of byte numbers that says the same."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.downloads.extents import Extents
from proxy.oci import Span

SIZE = 40
RUNS = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), max_size=12)


def runs(extents: Extents) -> list[tuple[int, int]]:
    return [(span.start, span.stop) for span in extents]


def filled(spans: list[tuple[int, int]]) -> Extents:
    extents = Extents()
    for start, stop in spans:
        extents.add(start, stop)
    return extents


def test_neighbours_melt_into_one() -> None:
    """Runs that touch or overlap are one; a gap of one byte keeps them apart."""
    extents = filled([(10, 20), (30, 40)])
    assert runs(extents) == [(10, 20), (30, 40)]
    extents.add(20, 29)
    assert runs(extents) == [(10, 29), (30, 40)]
    extents.add(29, 30)
    assert runs(extents) == [(10, 40)]
    extents.add(0, 50)
    assert runs(extents) == [(0, 50)]


def test_a_prefix_is_there_from_the_start() -> None:
    """A kept length is one run from byte 0; nothing kept is no run."""
    assert runs(Extents(7)) == [(0, 7)]
    assert (runs(Extents()), Extents().frontier, Extents().stop) == ([], 0, 0)


@given(RUNS, st.integers(0, SIZE), st.integers(0, SIZE))
def test_extents_are_a_set_of_byte_numbers(spans: list[tuple[int, int]], offset: int, length: int) -> None:
    """Whatever is added in whatever order, each question is answered as by the plain set; and so it is after a cut."""
    extents = filled(spans)
    held = {byte for start, stop in spans for byte in range(start, stop)}
    for _ in range(2):
        gap = next(byte for byte in range(offset, SIZE + 2) if byte not in held)
        assert extents.end_of(offset) == gap
        assert extents.frontier == next(byte for byte in range(SIZE + 2) if byte not in held)
        assert extents.total == len(held)
        assert extents.stop == max(held, default=-1) + 1
        missing = [byte for span in extents.holes(SIZE, offset) for byte in range(span.start, span.stop)]
        assert missing == [byte for byte in range(offset, SIZE) if byte not in held]
        assert all(span.length > 0 for span in (*extents, *extents.holes(SIZE)))
        extents.keep(length)
        held = {byte for byte in held if byte < length}


def test_holes_are_spans() -> None:
    """What is missing is told in order, within what was asked for."""
    extents = filled([(5, 10), (20, 25)])
    assert list(extents.holes(30)) == [Span(0, 5), Span(10, 20), Span(25, 30)]
    assert list(extents.holes(22, 7)) == [Span(10, 20)]
    assert list(extents.holes(9, 5)) == []
