"""What a dead process left of a part: a client may go on only on bytes that stand in what is verified now."""

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.downloads import left
from proxy.downloads.extents import Extents
from proxy.downloads.left import Finds, Left
from proxy.oci import Digest, Span

DIGEST = Digest.of(b"blob")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[io.FileIO]:
    path = tmp_path / "part"
    path.write_bytes(b"0123456789abcdef")
    with io.FileIO(path, "rb") as opened:
        yield opened


def found(*runs: tuple[int, int]) -> Extents:
    extents = Extents()
    for start, stop in runs:
        extents.add(start, stop)
    return extents


def test_what_was_found_and_not_written_anew_stands(file: io.FileIO) -> None:
    """Within one run of bytes; over a hole nothing does."""
    one = Left(found((0, 8), (10, 12)), b"7")
    assert one.has(Span(0, 8), file)
    assert one.has(Span(3, 7), file)
    assert one.has(Span(10, 12), file)
    assert not one.has(Span(0, 9), file)
    assert not one.has(Span(9, 11), file)
    assert not one.has(Span(13, 14), file)


def test_the_last_byte_may_come_anew_as_it_was(file: io.FileIO) -> None:
    """A resumed fetch asks for it again, to show that the upstream has the blob."""
    same, another = Left(found((0, 8)), b"7"), Left(found((0, 8)), b"x")
    for one in (same, another):
        one.cut(7)
    assert same.has(Span(0, 8), file)
    assert not another.has(Span(0, 8), file)
    assert another.has(Span(0, 7), file)


def test_a_cut_takes_what_is_behind_it(file: io.FileIO) -> None:
    """What is written anew is not what anybody was given."""
    one = Left(found((0, 8)), b"7")
    one.cut(4)
    assert one.has(Span(1, 4), file)
    assert not one.has(Span(1, 5), file)
    one.cut(0)
    assert not one.has(Span(0, 1), file)


@pytest.mark.parametrize(("frontier", "length"), [(0, 0), (1, 0), (4, 3)])
def test_a_cut_takes_what_lies_behind_a_hole(file: io.FileIO, frontier: int, length: int) -> None:
    """Wherever it cuts: only where the part has no holes is its last byte written over in its place."""
    one = Left(found((0, frontier), (8, 12)), b"")
    one.cut(length)
    assert not one.has(Span(8, 12), file)


def test_the_first_find_is_what_counts(file: io.FileIO) -> None:
    """A second opening in this process finds what this process wrote: no client of an earlier one had that."""
    finds = Finds()
    first = finds.first(DIGEST, Left(found((0, 4)), b"3"))
    assert finds.first(DIGEST, Left(found((0, 8)), b"7")) is first
    assert finds.stand(DIGEST, file, Span(0, 4))
    assert not finds.stand(DIGEST, file, Span(0, 5))
    assert finds.stand(DIGEST, file, Span(9, 9))


def test_what_this_process_never_wrote_stands(file: io.FileIO) -> None:
    """It was whole before; unless so many were opened that it is not known any more."""
    finds = Finds()
    assert finds.stand(DIGEST, file, Span(0, 9))


def test_what_is_not_known_any_more_does_not_stand(file: io.FileIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond its memory a process trusts nothing that it may have written."""
    monkeypatch.setattr(left, "KNOWN_MAX", 1)
    finds = Finds()
    finds.first(Digest.of(b"other"), Left(found(), b""))
    assert not finds.stand(DIGEST, file, Span(0, 9))
