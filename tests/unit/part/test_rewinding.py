"""A part that begins anew or goes back: a prefix stays, nothing else of what was written."""

import os

import pytest

from proxy.downloads.part import Part
from proxy.downloads.progress import map_path
from proxy.oci import Span
from tests.support.leaks import open_files
from tests.support.parts import DATA, append, put


async def test_a_renewed_part_is_another_file(part: Part) -> None:
    """Whoever was given bytes of the old one holds another inode, and can tell any later process so."""
    await append(part, [b"wrong" * 100])
    await put(part, 5000, 9000)
    old, files = part.share(), open_files()
    await part.renew()
    assert open_files() == files - 1  # of the map
    assert (part.frontier, part.extents.stop, part.hashed, part.path.stat().st_size) == (0, 0, 0, 0)
    assert not map_path(part.path).exists()
    assert part.path.stat().st_ino != os.fstat(old.fileno()).st_ino
    assert os.fstat(old.fileno()).st_size == 0  # its blocks are free though it is held open
    assert not part.left.has(Span(0, 1), old)
    await append(part, [DATA])
    assert await part.matches()
    assert part.path.read_bytes() == DATA
    old.close()


async def test_a_name_that_is_another_files_is_not_renewed(part: Part) -> None:
    """A renewal that comes late, when its part was closed and begun anew, deletes nothing of the next one's."""
    await append(part, [DATA])
    part.path.unlink()
    part.path.write_bytes(b"the next one's")
    with pytest.raises(FileNotFoundError):
        await part.renew()
    assert part.path.read_bytes() == b"the next one's"


async def test_going_back_by_a_byte_before_holes_leaves_none(part: Part) -> None:
    """No map tells of them any more: a kill would take them for content."""
    await append(part, [DATA[:500]])
    await put(part, 5000, 9000)
    await part.rewind(499)
    assert part.path.stat().st_size == 499


async def test_a_file_shortened_from_outside_is_an_error(part: Part) -> None:
    """Hashing again does not wait for ever for bytes that somebody cut off."""
    await append(part, [DATA])
    await part.rewind(1000)
    os.truncate(part.path, 10)
    with pytest.raises(OSError, match="shorter"):
        await part.matches()


async def test_rewinding_keeps_a_prefix(part: Part) -> None:
    """A rewound part is shorter, is hashed from the start, and may grow to its end again."""
    await append(part, [DATA[:500], b"wrong" * 1000])
    await part.rewind(500)
    assert (part.frontier, part.hashed, part.path.stat().st_size) == (500, 0, 500)
    await append(part, [DATA[500:]])
    assert await part.matches()
    await part.rewind(0)
    assert (part.frontier, part.hashed, part.path.stat().st_size) == (0, 0, 0)
    await append(part, [DATA])
    assert await part.matches()


async def test_a_last_byte_that_comes_anew_is_written_over(part: Part) -> None:
    """It stays where it is until then: a client of an earlier process may be sent it. Were it one too many, it goes."""
    await append(part, [DATA[:500]])
    await part.rewind(499)
    assert (part.frontier, part.path.read_bytes()) == (499, DATA[:500])
    await append(part, [DATA[499:]])
    assert await part.matches()
    assert part.path.read_bytes() == DATA
    await append(part, [b"x"])
    await part.rewind(len(DATA))
    assert await part.matches()
    assert part.path.read_bytes() == DATA
