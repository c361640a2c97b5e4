"""Room is claimed before it is used, waited for and given back; a disk that refuses is left alone and tried again."""

import asyncio
import errno
import os
from pathlib import Path

import pytest

from proxy.app import World, open_rooms
from proxy.capacity.trouble import FIRST_PROBE_S
from proxy.config import Share, parse
from proxy.errors import NotKept
from proxy.events import StorageDegraded, StorageRecovered
from proxy.ledger import blocks_for
from proxy.tasks import Tasks
from tests.support.clock import Clock
from tests.support.faulty import no_space
from tests.support.proxy import config_text
from tests.support.registry import Registry
from tests.support.roomy import MIB, bench
from tests.support.waiting import turns


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


async def test_time_is_the_worlds(cache_dir: Path, registry: Registry) -> None:
    """Whoever turns the clock wakes the probe of a disk that refused."""
    clock = Clock()
    config = parse(config_text(cache_dir, registry), "test.yaml", {})
    world = World(clock=clock, monotonic=clock, sleep=clock.sleep)
    async with open_rooms(config, world) as rooms:
        recovered = asyncio.Event()
        rooms.events.listen(StorageRecovered, lambda _: recovered.set())
        rooms.capacity.refused(OSError(errno.EIO, "the disk refuses"))
        await turns()
        assert not recovered.is_set()
        clock.advance(FIRST_PROBE_S)
        async with asyncio.timeout(10):
            await recovered.wait()
