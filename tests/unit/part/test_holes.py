"""A part with holes: read where it is filled, and taken up after the end of a process by its map."""

import asyncio
from pathlib import Path

import pytest

from proxy.downloads.part import Part
from proxy.downloads.progress import map_path
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from tests.support.parts import DATA, DIGEST, append, put


async def test_a_part_with_holes_is_readable_where_it_is_filled(part: Part) -> None:
    """Runs may come in any order; the frontier follows once the hole before them is filled, and so does the hash."""
    await put(part, 200_000, 250_000)
    await put(part, 0, 100)
    assert (part.frontier, part.extents.end_of(200_000)) == (100, 250_000)
    await put(part, 100, 200_000)
    assert part.frontier == 250_000
    await put(part, 250_000, len(DATA))
    assert await part.matches()
    assert part.window.held == 0
    assert part.path.read_bytes() == DATA


async def test_an_ended_process_leaves_what_its_map_tells(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """Opened again, a part with holes has what was written before and behind them, but for 4 KiB a run."""
    before = await Part.open(tmp_path, DIGEST, threads, tasks)
    await put(before, 0, 1000)
    assert not map_path(before.path).exists()
    await asyncio.gather(put(before, 1000, 50_000), put(before, 100_000, 200_000), put(before, 200_000, 300_000))
    before.close()
    part = await Part.open(tmp_path, DIGEST, threads, tasks)
    assert 50_000 - 4200 < part.frontier <= 50_000
    await put(part, part.frontier, 100_000)
    assert part.frontier == 100_000  # the map is of whole MiBs: what does not begin one is fetched again
    await put(part, 100_000, len(DATA))
    assert await part.matches()
    await part.forget_map()
    assert not map_path(part.path).exists()
    part.close()


async def test_a_map_without_holes_is_settled_at_the_next_start(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """What lies behind the frontier by the map is cut off, so that the length is the progress again."""
    before = await Part.open(tmp_path, DIGEST, threads, tasks)
    await put(before, 100_000, 200_000)
    before.close()
    assert map_path(before.path).exists()
    part = await Part.open(tmp_path, DIGEST, threads, tasks)
    assert (part.frontier, part.extents.stop, part.path.stat().st_size) == (0, 0, 0)
    assert not map_path(part.path).exists()
    await append(part, [DATA])
    assert await part.matches()
    part.close()


async def test_a_rewound_part_has_no_holes_and_no_map(part: Part) -> None:
    """Going back to a prefix forgets what was behind it, on the disk too; and a discarded part leaves nothing."""
    await put(part, 0, 1000)
    await put(part, 5000, 9000)
    await part.rewind(500)
    assert (part.frontier, part.extents.stop, part.path.stat().st_size) == (500, 500, 500)
    assert not map_path(part.path).exists()
    await put(part, 5000, 9000)
    await part.discard()
    assert list(part.path.parent.iterdir()) == []


async def test_a_map_that_cannot_be_made_is_a_refusing_disk(part: Part) -> None:
    """Nothing is written beyond the frontier without a map, for a kill would take the hole for content."""
    map_path(part.path).mkdir()
    with pytest.raises(IsADirectoryError):
        await part.write(5000, [DATA[5000:6000]])
    assert part.path.stat().st_size == 0
    await put(part, 0, 1000)
    assert part.frontier == 1000
