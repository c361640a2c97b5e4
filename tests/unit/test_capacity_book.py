"""The book agrees with the disk, whatever is on its way, left behind or changed by hand."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from proxy.config import Share
from proxy.events import StoreReplaced
from proxy.ledger import blocks_for
from proxy.oci import Digest
from proxy.store.blocks import blocks_of, folder_of
from proxy.store.copies import LOG_BYTES
from proxy.tasks import Tasks
from tests.support.blocks import blocks_under
from tests.support.roomy import MIB, Bench, bench
from tests.support.waiting import turns, until


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


def held_sync(room: Bench, name_end: str, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Hold the disk before it syncs a file whose name ends so: what tells that it has begun, and the gate."""
    begun, gate, fsync = threading.Event(), threading.Event(), room.files.fsync

    def held(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(name_end):
            begun.set()
            assert gate.wait(10)
        fsync(descriptor)

    monkeypatch.setattr(room.files, "fsync", held)
    return begun, gate


async def test_a_change_whose_caller_left_is_booked(cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adopting goes on in its thread when its caller is cancelled; what it did is in the book as soon as it is done."""
    async with bench(cache_dir) as room, Tasks() as tasks:
        begun, gate = held_sync(room, "sha256-x.part", monkeypatch)
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
        begun, gate = held_sync(room, ".put", monkeypatch)
        left = room.disk.parts / f"sha256-{'0' * 64}.9.put"
        left.write_bytes(b"left over")
        putting = tasks.start(room.disk.blobs.put(b"m" * 5000, Digest.of(b"m" * 5000)), name="put")
        await asyncio.to_thread(begun.wait, 10)
        await asyncio.gather(*(room.capacity.count() for _ in range(3)))
        assert not left.exists()
        gate.set()
        await putting
        assert await room.disk.blobs.stat(Digest.of(b"m" * 5000)) == 5000


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
        await turns()
        putting.cancel()
        await asyncio.wait([putting])
        assert not room.capacity.ledger.folder(folder_of(digest)).counted
    async with bench(cache_dir) as room:
        assert await room.disk.blobs.stat(digest) == 20_000
        await room.capacity.look()
        assert room.capacity.ledger.taken == blocks_under(cache_dir)


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


async def test_another_directory_in_its_place_is_counted_anew(cache_dir: Path) -> None:
    """What stood in the one that is gone is in nobody's book any more."""
    async with bench(cache_dir) as room:
        digest = await room.store(b"gone" * 50_000)
        room.disk.blobs.path_of(digest).unlink()
        room.capacity.ledger.known = False
        room.publish(StoreReplaced())
        await until(lambda: room.capacity.ledger.known)
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
