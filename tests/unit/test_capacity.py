"""Room on the disk: the limits, the count of what is there, admission, and a disk that refuses."""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.app import World, open_rooms
from proxy.capacity import Capacity, Limits, days_to_full, growth_per_day
from proxy.capacity.trouble import FIRST_PROBE_S, reason_of
from proxy.config import Share, parse
from proxy.errors import NotKept
from proxy.events import Events, StorageDegraded, StorageRecovered, StoreReplaced
from proxy.ledger import blocks_for
from proxy.oci import Digest
from proxy.store.blocks import blocks_of, folder_of
from proxy.store.census import Room
from proxy.store.copies import LOG_BYTES
from proxy.store.opened import Disk, open_disk
from proxy.tasks import Tasks
from tests.support.blocks import blocks_under
from tests.support.clock import Clock
from tests.support.faulty import FaultyFilesystem, no_space
from tests.support.proxy import config_text
from tests.support.registry import Registry
from tests.support.site import settled

MIB = 1 << 20
GIB = 1 << 30
ONE_GIB, NOTHING = Share(bytes=GIB), Share(bytes=0)
DISK = Room(total=100 * GIB, used=40 * GIB, free=60 * GIB)
DAY = 86_400.0


@pytest.mark.parametrize(
    ("max_size", "keep_free", "committed", "left"),
    [
        (Share(bytes=10 * GIB), Share(bytes=0), 4 * GIB, 6 * GIB),
        (Share(percent=50), Share(bytes=0), 4 * GIB, 46 * GIB),
        (Share(percent=50), Share(percent=20), 4 * GIB, 40 * GIB),
        (Share(percent=50), Share(bytes=59 * GIB), 4 * GIB, 1 * GIB),
        (Share(bytes=500 * GIB), Share(bytes=0), 4 * GIB, 60 * GIB),
        (Share(bytes=3 * GIB), Share(bytes=0), 4 * GIB, -1 * GIB),
        (Share(percent=100), Share(percent=80), 4 * GIB, -20 * GIB),
    ],
    ids=["size", "share", "kept free share", "kept free size", "more than the disk", "lowered", "others fill it"],
)
def test_both_limits_hold_at_once(max_size: Share, keep_free: Share, committed: int, left: int) -> None:
    """The smaller room counts: under the cap, and above what is kept free."""
    assert Limits(max_size, keep_free).left(DISK, committed, committed) == left


def test_what_was_promised_since_the_look_comes_off_what_was_free() -> None:
    """The file system is looked at now and then: what we took or promised meanwhile is known without it."""
    limits = Limits(Share(percent=100), Share(percent=20))
    assert limits.left(DISK, committed=14 * GIB, taken_at_look=4 * GIB) == 30 * GIB
    assert limits.left(DISK, committed=1 * GIB, taken_at_look=4 * GIB) == 43 * GIB


def test_a_cap_beyond_the_disk_is_the_disk() -> None:
    """`max_size` above what the disk has: the disk counts."""
    assert Limits(Share(bytes=500 * GIB), Share(bytes=0)).cap(DISK) == 100 * GIB


@pytest.mark.parametrize(
    ("sizes", "used", "growth"),
    [
        ([], 10, None),
        ([(9.99 * DAY, 5)], 10, None),
        ([(9 * DAY, 4), (9.5 * DAY, 8)], 10, 6.0),
        ([(1 * DAY, 0), (8 * DAY, 6)], 10, 2.0),
        ([(8 * DAY, 20)], 10, -5.0),
    ],
    ids=["none", "too young", "oldest of the window", "too old", "shrinks"],
)
def test_growth(sizes: list[tuple[float, int]], used: int, growth: float | None) -> None:
    """Bytes per day since the oldest size of the last week, at least an hour old."""
    assert growth_per_day(sizes, 10 * DAY, used) == growth


def test_days_to_full() -> None:
    """What is left over what is added a day; 0 when it is full, None when it does not grow."""
    assert days_to_full(100, 20.0) == 5.0
    assert days_to_full(0, None) == 0.0
    assert days_to_full(100, None) is None
    assert days_to_full(100, -3.0) is None


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "disk_read_only"),
        (errno.EIO, "disk_failed"),
        (errno.EMFILE, "descriptors"),
        (errno.ENOENT, "disk"),
    ],
)
def test_a_refusal_has_one_of_a_few_reasons(number: int, reason: str) -> None:
    """The word of Cache-Status, log and metric."""
    assert reason_of(OSError(number, "x")) == reason


@dataclass
class Bench:
    """A capacity room over an open cache directory: `begun` gets every pause that begins, `turns` ends the next one."""

    capacity: Capacity
    disk: Disk
    files: FaultyFilesystem
    clock: Clock
    heard: list[object]
    publish: Callable[[object], None]
    begun: asyncio.Queue[float] = field(default_factory=asyncio.Queue)
    turns: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    recovered: asyncio.Event = field(default_factory=asyncio.Event)

    async def store(self, data: bytes) -> Digest:
        digest = Digest.of(data)
        await self.disk.blobs.put(data, digest)
        return digest


@asynccontextmanager
async def bench(root: Path, max_size: Share = ONE_GIB, keep_free: Share = NOTHING) -> AsyncIterator[Bench]:
    files, clock, events = FaultyFilesystem(), Clock(), Events()
    heard: list[object] = []
    for kind in (StorageDegraded, StorageRecovered):
        events.listen(kind, heard.append)
    async with open_disk(root, files=files) as disk, Tasks() as tasks:
        found: Bench

        async def pause(seconds: float) -> None:
            found.begun.put_nowait(seconds)
            await found.turns.get()

        capacity = Capacity(
            disk, lambda: Limits(max_size, keep_free), tasks, events, clock=clock, monotonic=clock, pause=pause
        )
        found = Bench(capacity, disk, files, clock, heard, events.publish)
        events.listen(StorageRecovered, lambda _event: found.recovered.set())
        await capacity.begin()
        yield found


async def test_the_book_is_what_stands_on_the_disk(cache_dir: Path) -> None:
    """After a start, adoptions, doubles, deletions and parts left behind, the book says what the disk holds."""
    async with bench(cache_dir) as room:
        assert room.capacity.ledger.known
        kept = [await room.store(bytes([n]) * (n * 3000)) for n in range(40)]
        await room.store(bytes([3]) * 9000)
        part = room.disk.parts / "sha256-x.part"
        part.write_bytes(b"x" * 100_000)
        await room.disk.blobs.adopt(part, Digest.of(b"x" * 100_000), 100_000)
        for digest in kept[:10]:
            await room.disk.blobs.delete(digest)
        await room.disk.blobs.delete(kept[0])
        await room.capacity.look()
        assert room.capacity.ledger.taken == blocks_under(cache_dir)
    async with bench(cache_dir) as room:
        (room.disk.parts / "sha256-y.part").write_bytes(b"y" * 50_000)
        (cache_dir / "quarantine" / "bad").write_bytes(b"z" * 70_000)
        await room.capacity.count()
        assert room.capacity.ledger.taken == blocks_under(cache_dir)
        assert room.capacity.ledger.parts >= 50_000


async def test_a_change_whose_caller_left_is_booked(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adopting goes on in its thread when its caller is cancelled; what it did is in the book as soon as it is done."""
    async with bench(cache_dir) as room, Tasks() as tasks:
        gate, begun = threading.Event(), threading.Event()
        fsync = room.files.fsync

        def held(descriptor: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}").endswith("sha256-x.part"):
                begun.set()
                assert gate.wait(10)
            fsync(descriptor)

        monkeypatch.setattr(room.files, "fsync", held)
        data = b"x" * 300_000
        part = room.disk.parts / "sha256-x.part"
        part.write_bytes(data)
        adopting = tasks.start(room.disk.blobs.adopt(part, Digest.of(data), len(data)), name="adopt")
        await asyncio.to_thread(begun.wait, 10)
        adopting.cancel()
        await asyncio.gather(adopting, return_exceptions=True)
        assert room.capacity.ledger.folder(folder_of(Digest.of(data))).files == 0
        gate.set()
        await room.disk.threads.close()  # when all work has ended, and was told
        assert room.capacity.ledger.folder(folder_of(Digest.of(data))).files == 303_104


async def test_counting_twice_takes_nothing_that_is_on_its_way(
    cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest that is being written while the cache is counted, again and again and at once, is not left over."""
    async with bench(cache_dir) as room, Tasks() as tasks:
        gate, begun = threading.Event(), threading.Event()
        fsync = room.files.fsync

        def held(descriptor: int) -> None:
            if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".put"):
                begun.set()
                assert gate.wait(10)
            fsync(descriptor)

        left = room.disk.parts / f"sha256-{'0' * 64}.9.put"
        left.write_bytes(b"left over")
        monkeypatch.setattr(room.files, "fsync", held)
        putting = tasks.start(room.disk.blobs.put(b"m" * 5000, Digest.of(b"m" * 5000)), name="put")
        await asyncio.to_thread(begun.wait, 10)
        await asyncio.gather(*(room.capacity.count() for _ in range(3)))
        assert not left.exists()
        gate.set()
        await putting
        assert await room.disk.blobs.stat(Digest.of(b"m" * 5000)) == 5000


async def test_time_is_the_worlds(cache_dir: Path, registry: Registry) -> None:
    """Whoever turns the clock wakes the probe of a disk that refused."""
    clock = Clock()
    config = parse(config_text(cache_dir, registry), "test.yaml", {})
    world = World(clock=clock, monotonic=clock, sleep=clock.sleep)
    async with open_rooms(config, world) as rooms:
        recovered = asyncio.Event()
        rooms.events.listen(StorageRecovered, lambda _: recovered.set())
        rooms.capacity.refused(OSError(errno.EIO, "the disk refuses"))
        await asyncio.sleep(0)
        assert not recovered.is_set()
        clock.advance(FIRST_PROBE_S)
        async with asyncio.timeout(10):
            await recovered.wait()


async def test_what_a_hand_changed_is_found_by_the_next_count(cache_dir: Path) -> None:
    """Files and shards that went without a word are no longer in the book after a count."""
    async with bench(cache_dir) as room:
        digests = [await room.store(bytes([n]) * 20_000) for n in range(5)]
        for digest in digests[:2]:
            room.disk.blobs.path_of(digest).unlink()
        room.disk.blobs.path_of(digests[0]).parent.rmdir()
        assert room.capacity.ledger.taken > blocks_under(cache_dir)
        await room.capacity.count()
        assert room.capacity.ledger.taken == blocks_under(cache_dir)


async def test_a_deleted_blob_counts_until_its_last_reader_leaves(cache_dir: Path) -> None:
    """Its blocks are free only then; another blob of that name is another file."""
    async with bench(cache_dir) as room:
        digest = await room.store(b"r" * 40_000)
        first, second = await room.disk.blobs.read(digest), await room.disk.blobs.read(digest)
        assert first is not None
        assert second is not None
        assert room.disk.blobs.is_read(digest)
        await room.disk.blobs.delete(digest)
        assert not room.disk.blobs.is_read(digest)
        assert room.capacity.ledger.lingering == 40_960
        await room.store(b"r" * 40_000)
        first.close()
        first.close()
        assert room.capacity.ledger.lingering == 40_960
        second.close()
        assert room.capacity.ledger.lingering == 0
        await room.capacity.look()
        assert room.capacity.ledger.taken == blocks_under(cache_dir)


async def test_what_the_databases_will_take_is_promised_to_them(cache_dir: Path) -> None:
    """Their logs fill up at any time: a body that took that room would be over the cap then."""
    async with bench(cache_dir) as room:
        await room.capacity.look()
        logs = [cache_dir / f"{name}.sqlite-wal" for name in ("index", "records")]
        grown = sum(map(blocks_of, logs))
        assert room.capacity.ledger.ahead >= 2 * LOG_BYTES - grown
        with logs[0].open("ab") as log:
            log.write(bytes(LOG_BYTES))
        await room.capacity.look()
        assert room.capacity.ledger.ahead < 2 * LOG_BYTES - grown


async def test_a_caller_who_left_leaves_no_wrong_book(cache_dir: Path) -> None:
    """A store that went on after its caller was cancelled is found by the next count."""
    async with bench(cache_dir) as room, Tasks() as tasks:
        digest = Digest.of(b"late" * 5000)
        putting = tasks.start(room.disk.blobs.put(b"late" * 5000, digest), name="put", report=False)
        await asyncio.sleep(0)
        putting.cancel()
        await asyncio.wait([putting])
        assert not room.capacity.ledger.folder(folder_of(digest)).counted
    async with bench(cache_dir) as room:
        assert await room.disk.blobs.stat(digest) == 20_000
        await room.capacity.look()
        assert room.capacity.ledger.taken == blocks_under(cache_dir)


async def test_room_is_claimed_before_it_is_used(cache_dir: Path) -> None:
    """Claims add up to the cap less what is spared; one more is refused, and room is called for."""
    async with bench(cache_dir, Share(bytes=64 * MIB)) as room:
        first = room.capacity.claim(20 * MIB)
        room.capacity.claim(30 * MIB)
        assert not first.written
        room.capacity.short.clear()
        with pytest.raises(NotKept) as refused:
            room.capacity.claim(20 * MIB)
        assert refused.value.reason == "no_room"
        assert room.capacity.short.is_set()
        assert room.capacity.wanted == blocks_for(20 * MIB)
        assert room.capacity.excess() >= blocks_for(20 * MIB) - 14 * MIB
        first.release()
        room.capacity.claim(20 * MIB)
        assert room.capacity.claim(100_000, small=True).promised == blocks_for(100_000)


async def test_a_body_larger_than_the_cache_is_never_kept(cache_dir: Path) -> None:
    """It is refused for what it is, and nothing is evicted for it."""
    async with bench(cache_dir, Share(bytes=64 * MIB)) as room:
        with pytest.raises(NotKept) as refused:
            room.capacity.claim(64 * MIB)
        assert refused.value.reason == "too_large"
        assert room.capacity.wanted == 0
        with pytest.raises(NotKept):
            await room.capacity.wait(64 * MIB)


async def test_a_claim_of_unknown_size_grows_in_steps(cache_dir: Path) -> None:
    """A step that finds no room is refused, and the claim stays as it was."""
    async with bench(cache_dir, Share(bytes=64 * MIB)) as room:
        claim = room.capacity.claim(20 * MIB)
        room.capacity.extend(claim, 40 * MIB)
        assert claim.promised == blocks_for(40 * MIB)
        with pytest.raises(NotKept):
            room.capacity.extend(claim, 62 * MIB)
        assert claim.promised == blocks_for(40 * MIB)


async def test_who_waits_gets_room_when_it_is_made(cache_dir: Path) -> None:
    """A body goes on in memory for a while; eviction that succeeds in time lets it be kept."""
    async with bench(cache_dir, Share(bytes=64 * MIB)) as room, Tasks() as tasks:
        held = room.capacity.claim(50 * MIB)
        waiting = tasks.start(room.capacity.wait(20 * MIB), name="wait")
        await room.capacity.short.wait()
        await room.capacity.made()
        assert not waiting.done()
        held.release()
        await room.capacity.made()
        assert (await waiting).promised == blocks_for(20 * MIB)


async def test_a_disk_that_refuses_is_left_alone_and_tried_again(cache_dir: Path) -> None:
    """Nothing is claimed meanwhile; a probe finds it well, says so, and claims are given again."""
    async with bench(cache_dir) as room:
        room.files.fault, room.files.sticky, room.files.at = no_space, True, len(room.files.steps) + 1
        assert room.capacity.refused(OSError(errno.EIO, "broken")) == "disk_failed"
        assert room.capacity.refused(OSError(errno.EIO, "broken")) == "disk_failed"
        for expected in (1.0, 2.0):
            with pytest.raises(NotKept) as refused:
                room.capacity.claim(1000, small=True)
            assert refused.value.reason in ("disk_failed", "disk_full")
            assert await room.begun.get() == expected
            room.turns.put_nowait(None)
        assert await room.begun.get() == 4.0
        assert room.capacity.trouble.reason == "disk_full"
        room.files.at = 0
        room.turns.put_nowait(None)
        await room.recovered.wait()
        room.capacity.claim(1000).release()
        assert room.heard == [StorageDegraded("disk_failed", "broken"), StorageRecovered()]
        assert os.listdir(room.disk.parts) == []


async def test_too_few_descriptors_are_no_fault_of_the_disk(cache_dir: Path) -> None:
    """The body that met it is not kept; the next one may be."""
    async with bench(cache_dir) as room:
        assert room.capacity.refused(OSError(errno.EMFILE, "too many open files")) == "descriptors"
        room.capacity.claim(1000).release()
        assert room.heard == []


async def test_parts_left_behind_are_booked_until_they_are_taken_up(cache_dir: Path) -> None:
    """They count; too many of them call for room."""
    async with bench(cache_dir, Share(bytes=64 * MIB)) as room:
        room.capacity.short.clear()
        room.capacity.kept_part("a.part", MIB)
        assert room.capacity.ledger.parts == blocks_for(MIB)
        assert not room.capacity.short.is_set()
        room.capacity.kept_part("b.part", 4 * MIB)
        assert room.capacity.short.is_set()
        await room.capacity.took_part("b.part")
        assert room.capacity.ledger.parts == blocks_for(MIB)


async def test_before_the_first_count_the_disk_itself_is_the_bound(cache_dir: Path) -> None:
    """What the whole file system has given away bounds what stands here: only that much less is promised."""
    async with bench(cache_dir, Share(percent=100)) as room:
        room.capacity.ledger.known = False
        assert room.capacity.room is not None
        assert room.capacity.left() <= room.capacity.room.total - room.capacity.room.used
        assert room.capacity.excess() == 0
        room.capacity.claim(1000).release()
    async with bench(cache_dir, Share(bytes=64 * MIB)) as room:
        room.capacity.ledger.known = False
        with pytest.raises(NotKept) as refused:
            room.capacity.claim(1000)
        assert refused.value.reason == "starting"


async def test_another_directory_in_its_place_is_counted_anew(cache_dir: Path) -> None:
    """What stood in the one that is gone is in nobody's book any more."""
    async with bench(cache_dir) as room:
        digest = await room.store(b"gone" * 50_000)
        room.disk.blobs.path_of(digest).unlink()
        room.capacity.ledger.known = False
        room.publish(StoreReplaced())
        async with asyncio.timeout(10):
            while not room.capacity.ledger.known:
                await settled()
        assert room.capacity.ledger.blobs == sum(blocks_under(shard) for shard in room.disk.directory.blobs.glob("*/*"))


async def test_no_file_of_a_part_that_is_filled_is_touched(cache_dir: Path) -> None:
    """A part may have a map beside it: both are the transfer's while it fills them, in the book and on the disk."""
    async with bench(cache_dir, Share(bytes=64 * MIB)) as room:
        await room.capacity.took_part("sha256-1.part")
        for name in ("sha256-1.part", "sha256-1.map", "sha256-2.map"):
            (room.disk.parts / name).write_bytes(bytes(2 * MIB))
        await room.capacity.count()
        assert set(room.capacity.ledger.kept_parts) == {"sha256-2.map"}
        room.capacity.wanted = 62 * MIB
        await room.capacity.drop_kept_parts()
        assert sorted(os.listdir(room.disk.parts)) == ["sha256-1.map", "sha256-1.part"]


async def test_parts_left_behind_are_bounded(cache_dir: Path) -> None:
    """They may take a twentieth of the cap, also where there is room: the oldest go, those being filled do not."""
    async with bench(cache_dir, Share(bytes=64 * MIB)) as room:
        names = [f"sha256-{n}.part" for n in range(4)]
        for name in names:
            (room.disk.parts / name).write_bytes(bytes(MIB))
            room.capacity.kept_part(name, MIB)
        await room.capacity.took_part(names[0])
        await room.capacity.drop_kept_parts()
        assert sorted(os.listdir(room.disk.parts)) == names
        (room.disk.parts / "sha256-9.part").write_bytes(bytes(MIB))
        room.capacity.kept_part("sha256-9.part", MIB)
        await room.capacity.drop_kept_parts()
        assert sorted(os.listdir(room.disk.parts)) == [names[0], names[2], names[3], "sha256-9.part"]
        await room.capacity.took_part(names[1])
        room.capacity.left_part(names[1])
        assert list(room.capacity.ledger.kept_parts) == [names[2], names[3], "sha256-9.part"]
