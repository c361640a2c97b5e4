"""What an ended process had written of a part with holes: a map beside it, one byte for each MiB. What opens blocks.

A byte tells how much of its MiB is there from the MiB's start, in 255ths and rounded down, so a kill loses 4 KiB of
what each connection had written. It is set after the write returned, and is never more than the truth.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy.downloads.extents import Extents

CELL: Final = 1 << 20
WHOLE: Final = 255


def map_path(part: Path) -> Path:
    return part.with_suffix(".map")


def cells(extents: Extents, start: int, stop: int) -> tuple[int, bytes]:
    """The map's bytes for the MiBs that a run touches, and the number of the first of them."""
    first, last = start // CELL, -(-stop // CELL)
    return first, bytes(_cell(extents, number * CELL) for number in range(first, last))


def _cell(extents: Extents, start: int) -> int:
    return (min(extents.end_of(start), start + CELL) - start) * WHOLE // CELL


def extents_of(found: Sequence[int], length: int) -> Extents:
    """What a map says is there of a file of `length` bytes."""
    extents = Extents()
    for number, cell in enumerate(found):
        start = number * CELL
        extents.add(start, min(start + cell * CELL // WHOLE, length))
    return extents


def lasting_end(extents: Extents, offset: int) -> int:
    """Where the bytes from `offset` on end that are still known after a kill: what leaves to a client goes no further,
    so that the next process knows all that it was given.
    """
    end = extents.end_of(offset)
    if not extents.is_mapped or end == offset:
        return end
    start = end // CELL * CELL
    return max(offset, start + (end - start) * WHOLE // CELL * CELL // WHOLE)


def read_map(part: Path, length: int) -> Extents | None:
    """What the map beside a part says, None if it has none. OSError: it is there and cannot be read."""
    with suppress(FileNotFoundError):
        descriptor = os.open(map_path(part), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return extents_of(os.pread(descriptor, -(-length // CELL), 0), length)
        finally:
            os.close(descriptor)
    return None


def open_map(part: Path, extents: Extents) -> int:
    """Begin or go on with a map: what is there now is in it. A descriptor to write on with."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(map_path(part), flags, 0o600)
    try:
        os.pwrite(descriptor, cells(extents, 0, extents.stop)[1], 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def drop_map(part: Path) -> None:
    map_path(part).unlink(missing_ok=True)
