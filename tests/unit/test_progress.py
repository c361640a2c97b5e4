"""The map beside a part with holes: never more than the truth, and little less."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.downloads.extents import Extents
from proxy.downloads.progress import CELL, cells, drop_map, extents_of, lasting_end, map_path, open_map, read_map

SIZE = 5 * CELL + 12_345
RUNS = st.lists(st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)), max_size=6)


def filled(runs: list[tuple[int, int]]) -> Extents:
    extents = Extents()
    for start, stop in runs:
        extents.add(start, stop)
    return extents


@given(RUNS)
def test_a_map_tells_no_byte_that_is_not_there(runs: list[tuple[int, int]]) -> None:
    """Read back, it says at most what was there; of each MiB's beginning it loses less than 4200 bytes."""
    extents = filled(runs)
    found = extents_of(cells(extents, 0, SIZE)[1], SIZE)
    for span in found:
        assert extents.end_of(span.start) >= span.stop
    for start in range(0, SIZE, CELL):
        there = min(extents.end_of(start), start + CELL)
        assert there - 4200 < min(found.end_of(start), start + CELL) <= there


@given(RUNS, st.integers(0, SIZE))
def test_a_file_that_is_shorter_than_its_map(runs: list[tuple[int, int]], length: int) -> None:
    """A map that tells of bytes beyond the file's end is not believed there."""
    assert extents_of(cells(filled(runs), 0, SIZE)[1], length).stop <= length


def test_the_cells_of_a_run() -> None:
    """A run changes the bytes of the MiBs that it touches, and no others."""
    extents = filled([(0, 3 * CELL)])
    assert cells(extents, CELL + 5, CELL + 6) == (1, b"\xff")
    assert cells(extents, CELL - 1, 3 * CELL + 1) == (0, b"\xff\xff\xff\x00")
    assert cells(extents, 0, 0) == (0, b"")


def test_a_map_on_disk(tmp_path: Path) -> None:
    """It begins with what is there, is read back by the next process, and goes."""

    part = tmp_path / "sha256-abc.part"
    assert read_map(part, SIZE) is None
    os.close(open_map(part, filled([(0, CELL), (2 * CELL, 3 * CELL)])))
    found = read_map(part, SIZE)
    assert found is not None
    assert [(span.start, span.stop) for span in found] == [(0, CELL), (2 * CELL, 3 * CELL)]
    assert map_path(part).stat().st_mode & 0o777 == 0o600
    drop_map(part)
    drop_map(part)
    assert read_map(part, SIZE) is None


def test_a_planted_link_is_refused(tmp_path: Path) -> None:
    """A link at the map's name leads no write elsewhere (V48)."""
    part, victim = tmp_path / "sha256-abc.part", tmp_path / "victim"
    victim.write_bytes(b"precious")
    map_path(part).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        open_map(part, Extents(CELL))
    with pytest.raises(OSError, match="symbolic links"):
        read_map(part, SIZE)
    assert victim.read_bytes() == b"precious"


@given(RUNS, st.integers(0, SIZE))
def test_what_may_leave_is_known_after_a_kill(runs: list[tuple[int, int]], stop: int) -> None:
    """From the beginning to where bytes may leave, the map has them all; and that is little less than what is there.
    Without a map, where the file's length tells it, everything may.
    """
    extents = filled([(0, stop), *runs])
    assert lasting_end(extents, 0) == extents.frontier
    extents.is_mapped = True
    end = lasting_end(extents, 0)
    assert extents_of(cells(extents, 0, SIZE)[1], SIZE).frontier >= end
    assert extents.frontier - end < 4200
