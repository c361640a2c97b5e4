"""The growing file: appended, hashed, kept, shared; and callers who leave in the middle of it."""

import asyncio
import hashlib
import io
import os
import resource
import stat
import threading
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path

import pytest

from proxy.downloads import part as part_room
from proxy.downloads.extents import Extents
from proxy.downloads.part import IOV_MAX, Part
from proxy.downloads.partfile import part_path
from proxy.downloads.progress import map_path
from proxy.downloads.trail import TURN
from proxy.oci import Digest, Span
from proxy.store.filesystem import Filesystem
from proxy.store.threads import Threads
from proxy.tasks import Tasks

DATA = hashlib.sha512(b"layer").digest() * 5000
DIGEST = Digest.of(DATA)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    async with Threads(disk=1) as pools:
        yield pools


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks() as running:
        yield running


@pytest.fixture
async def part(tmp_path: Path, threads: Threads, tasks: Tasks) -> AsyncIterator[Part]:
    opened = await Part.open(tmp_path, DIGEST, threads, tasks)
    yield opened
    opened.close()


async def append(part: Part, chunks: Sequence[bytes]) -> None:
    """Write `chunks` at the frontier, as one answer without gaps does."""
    for chunk in chunks:
        part.window.hold(chunk)
    await part.write(part.frontier, chunks)


async def leave(threads: Threads, work: Awaitable[object], tasks: Tasks) -> threading.Event:
    """Ask for `work` while the one disk thread is held, and leave before it begins; set what is returned to let it."""
    gate = threading.Event()
    held = tasks.start(threads.disk(gate.wait), name="held")

    async def asking() -> None:
        await work

    caller = tasks.start(asking(), name="caller")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not held.done()
    return gate


async def test_a_part_grows_and_hashes(part: Part, tmp_path: Path) -> None:
    """Each append moves the frontier and the hash with it; the file holds the bytes and nothing else."""
    assert (part.frontier, part.hashed, await part.matches()) == (0, 0, False)
    await append(part, [DATA[:10], DATA[10:1000]])
    assert (part.frontier, await part.matches(), part.hashed) == (1000, False, 1000)
    await append(part, [])
    await append(part, [b"", DATA[1000:]])
    assert part.frontier == len(DATA)
    assert await part.matches()
    assert (part.hashed, part.window.held) == (len(DATA), 0)
    assert part.path == part_path(tmp_path, DIGEST)
    assert part.path.read_bytes() == DATA
    assert stat.S_IMODE(part.path.stat().st_mode) == 0o600


async def test_more_buffers_than_one_call_takes(part: Part) -> None:
    """An append of more pieces than the kernel takes at once is written whole and in order."""
    pieces = [DATA[start : start + 64] for start in range(0, len(DATA), 64)]
    assert len(pieces) > 2 * IOV_MAX
    await append(part, pieces)
    assert part.path.read_bytes() == DATA
    assert await part.matches()


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
async def test_every_algorithm_is_hashed_by_itself(
    tmp_path: Path, threads: Threads, tasks: Tasks, algorithm: str
) -> None:
    """A part is checked with its own digest's algorithm, and wrong bytes never match."""
    for given in (DATA, DATA[:-1] + b"?"):
        part = await Part.open(tmp_path, Digest.of(DATA, algorithm), threads, tasks)
        await append(part, [given])
        assert await part.matches() is (given == DATA)
        await part.discard()
        part.close()


async def test_a_kept_prefix_is_hashed_again(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """Opened again, a part goes on at its length; the hash catches up behind appends, and then all match."""
    before = await Part.open(tmp_path, DIGEST, threads, tasks)
    await append(before, [DATA[:100_000]])
    before.close()
    part = await Part.open(tmp_path, DIGEST, threads, tasks)
    assert (part.frontier, part.hashed) == (100_000, 0)
    await append(part, [DATA[100_000:]])
    assert await part.matches()
    assert part.hashed == len(DATA)
    assert part.window.held == 0
    part.close()


async def test_a_long_prefix_is_hashed_in_bounded_jobs(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """A prefix longer than one job catches up too, also when it is appended to meanwhile."""
    data = os.urandom(1 << 20) * (TURN // (1 << 20) + 1)
    digest = Digest.of(data)
    part_path(tmp_path, digest).write_bytes(data[:-5])
    part = await Part.open(tmp_path, digest, threads, tasks)
    catching = tasks.start(part.matches(), name="catch up")
    await append(part, [data[-5:]])
    await catching
    assert await part.matches()
    part.close()


async def test_a_wrong_prefix_never_matches(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """What was kept is not trusted: other bytes in front, and the whole does not match."""
    part_path(tmp_path, DIGEST).write_bytes(b"?" + DATA[1:100])
    part = await Part.open(tmp_path, DIGEST, threads, tasks)
    await append(part, [DATA[100:]])
    assert not await part.matches()
    part.close()


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


async def test_a_share_outlives_renaming_deleting_and_closing(part: Part, tmp_path: Path) -> None:
    """A reader's file stays readable, and grows, whatever becomes of the name and of the part."""
    await append(part, [DATA[:100]])
    with part.share() as renamed, part.share() as deleted:
        part.path.rename(tmp_path / "elsewhere")
        await append(part, [DATA[100:]])
        assert os.pread(renamed.fileno(), len(DATA), 0) == DATA
        (tmp_path / "elsewhere").unlink()
        await part.discard()
        part.close()
        assert os.pread(deleted.fileno(), len(DATA), 0) == DATA
        assert not deleted.writable()


async def test_discarding_deletes_the_name(part: Part) -> None:
    """A discarded part is gone; discarding it twice is no error."""
    await append(part, [DATA])
    await part.discard()
    assert not part.path.exists()
    await part.discard()


async def test_a_planted_link_is_refused(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """A symbolic link at the part's path, to a file or to nowhere, is refused, its target untouched (V48)."""
    victim, missing = tmp_path / "victim", tmp_path / "missing"
    victim.write_bytes(b"precious")
    files = open_files()
    for target in (victim, missing):
        part_path(tmp_path, DIGEST).symlink_to(target)
        with pytest.raises(OSError, match="symbolic links"):
            await Part.open(tmp_path, DIGEST, threads, tasks)
        part_path(tmp_path, DIGEST).unlink()
    assert victim.read_bytes() == b"precious"
    assert not missing.exists()
    assert open_files() == files


async def test_a_folder_that_is_gone_is_an_error(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """What the disk refuses is an OSError, for the transfer to turn into pass-through."""
    with pytest.raises(FileNotFoundError):
        await Part.open(tmp_path / "gone", DIGEST, threads, tasks)


async def test_a_short_write_tells_its_errno(part: Part) -> None:
    """A disk that takes a part of an append refuses it: the frontier stays, and the next append goes on there."""
    await append(part, [DATA[:1000]])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))  # the kernel then writes short, as when nearly full
    try:
        with pytest.raises(OSError, match="File too large"):
            await append(part, [DATA[1000:100_000], DATA[100_000:]])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (part.frontier, await part.matches(), part.hashed) == (1000, False, 1000)
    await append(part, [DATA[1000:]])
    assert await part.matches()
    assert part.path.read_bytes() == DATA


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
    await asyncio.sleep(0)
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


async def put(part: Part, start: int, stop: int) -> None:
    """Write a run of the data wherever it belongs."""
    part.window.hold(DATA[start:stop])
    await part.write(start, [DATA[start:stop]])


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
