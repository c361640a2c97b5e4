"""A part whose disk hangs or whose caller leaves in the middle: no descriptor leaks, no other file is touched."""

import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from proxy.downloads import part as part_room
from proxy.downloads.extents import Extents
from proxy.downloads.part import Part
from proxy.downloads.partfile import part_path
from proxy.store.filesystem import Filesystem
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from tests.support.leaks import open_files
from tests.support.parts import DATA, DIGEST, append, leave
from tests.support.waiting import turns


async def test_a_cancelled_renewal_leaks_nothing(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """Whoever asked for it left, and closed the part: the new file is closed as well."""
    files = open_files()
    part = await Part.open(tmp_path, DIGEST, threads, tasks)
    await append(part, [DATA])
    assert await part.matches()
    gate = await leave(threads, part.renew(), tasks)
    part.close()
    gate.set()
    await threads.disk(int)
    assert open_files() == files
    assert part.path.stat().st_size == 0


class Hung(Filesystem):
    """A disk whose writes stand still until `moves` is set."""

    def __init__(self) -> None:
        self.moves = threading.Event()

    def pwritev(self, descriptor: int, chunks: Sequence[bytes | memoryview], offset: int) -> int:
        self.moves.wait()
        return super().pwritev(descriptor, chunks, offset)


async def test_nothing_is_written_after_a_write_that_hangs(tmp_path: Path, tasks: Tasks) -> None:
    """It may still happen: then over no bytes that another hand brought in its place, and that were hashed."""
    async with Threads() as threads:
        part = await Part.open(tmp_path, DIGEST, threads, tasks, disk := Hung())
        threads.answer_within_s = 0.01
        with pytest.raises(TimeoutError):
            await append(part, [b"?" * 1000])
        disk.moves.set()
        with pytest.raises(TimeoutError):
            await append(part, [DATA])
        part.close()
    assert part.frontier == 0


async def hang(threads: Threads) -> threading.Event:
    """The one disk thread hangs, and somebody was not answered in time; set what is returned to end that."""
    gate = threading.Event()
    threads.answer_within_s = 0.01
    with pytest.raises(TimeoutError):
        await threads.soon(gate.wait)
    assert threads.hangs
    return gate


async def test_a_disk_that_hangs_leaks_no_descriptor(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """What is not even asked for opens nothing: no work comes that would close it."""
    files = open_files()
    part = await Part.open(tmp_path, DIGEST, threads, tasks)
    await append(part, [DATA[:1000]])
    await part.write(5000, [DATA[5000:6000]])  # there is a map now
    gate = await hang(threads)
    with pytest.raises(TimeoutError):
        await part.write(6000, [DATA[6000:7000]])
    with pytest.raises(TimeoutError):
        await part.rewind(500)
    gate.set()
    await threads.disk(int)
    await part.discard()
    part.close()
    assert open_files() == files


async def test_a_map_that_is_not_begun_in_time_is_a_refusing_disk(
    tmp_path: Path, threads: Threads, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it without end: neither who writes, nor who gives the part up."""
    gate, begin = threading.Event(), part_room._map_file

    def late(path: Path, kept: Extents) -> io.FileIO:
        gate.wait()
        return begin(path, kept)

    files = open_files()
    part = await Part.open(tmp_path, DIGEST, threads, tasks)
    monkeypatch.setattr(part_room, "_map_file", late)
    threads.answer_within_s = 0.01
    with pytest.raises(TimeoutError):
        await part.write(5000, [DATA[5000:6000]])
    with pytest.raises(TimeoutError):
        await part.discard()
    part.close()
    gate.set()
    await threads.disk(int)
    await turns()
    assert open_files() == files


async def test_a_cancelled_append_leaks_nothing(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """An append whose caller left and closed the part is still done; no descriptor is left and the file is a prefix."""
    files = open_files()
    part = await Part.open(tmp_path, DIGEST, threads, tasks)
    await append(part, [DATA[:1000]])
    gate = await leave(threads, append(part, [DATA[1000:5000]]), tasks)
    part.close()
    gate.set()
    await threads.disk(int)  # stands behind the append
    assert open_files() == files
    assert part_path(tmp_path, DIGEST).read_bytes() == DATA[:5000]
    again = await Part.open(tmp_path, DIGEST, threads, tasks)
    assert again.frontier == 5000
    await append(again, [DATA[5000:]])
    assert await again.matches()
    again.close()


async def test_a_cancelled_opening_leaks_nothing(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """A part that was opened for a caller who had left is closed."""
    files = open_files()
    gate = await leave(threads, Part.open(tmp_path, DIGEST, threads, tasks), tasks)
    gate.set()
    await threads.disk(int)
    assert part_path(tmp_path, DIGEST).exists()
    assert open_files() == files


async def test_a_cancelled_rewind_touches_no_other_file(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """A rewind that runs after its part was closed cuts that part, never the file that got its descriptor's number."""
    files = open_files()
    part = await Part.open(tmp_path, DIGEST, threads, tasks)
    await append(part, [DATA])
    assert await part.matches()
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    gate = await leave(threads, part.rewind(10), tasks)
    numbers = set(os.listdir("/proc/self/fd"))
    part.close()
    heirs = [os.open(other, os.O_RDWR) for _ in range(4)]
    gate.set()
    await threads.disk(int)
    for heir in heirs:
        os.close(heir)
    assert numbers & {str(heir) for heir in heirs}, "no descriptor number was used again"
    assert other.read_bytes() == b"precious"
    assert part.path.read_bytes() == DATA[:10]
    assert open_files() == files
