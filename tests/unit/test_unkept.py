"""Where passing by and keeping meet: room granted late, taken back or never used; full disks; readers that leave."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.downloads.partfile import part_path
from proxy.downloads.room import Downloads
from proxy.errors import BlobUnknown, Denied, TransferFailed
from proxy.events import NotStored
from proxy.store.memory import MemoryStore
from proxy.upstream.base import Priority
from tests.support.downloading import ORIGIN, ground_in
from tests.support.images import blob
from tests.support.unkept import Full, Gate, LateHash, Room, Scripted, World
from tests.support.waiting import settled, turns, until

MIB = 1 << 20


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    wanted, store, room, disk = blob(6 * MIB), MemoryStore(), Room(), Full()
    upstream, threads = Scripted(wanted), LateHash()
    async with ground_in(tmp_path, store, upstream, threads=threads, files=disk, capacity=room) as ground:
        downloads = Downloads(ground, max_blob_bytes=lambda: 1 << 30, max_ranges=lambda: 1)
        world = World(downloads, ground, store, upstream, room, disk, threads)
        ground.events.listen(NotStored, world.told.append)
        async with asyncio.timeout(20):
            yield world


async def test_who_comes_while_a_pass_is_being_stopped_gets_the_right_bytes(world: World) -> None:
    """A chunk whose hashing was under way then comes again, and is hashed once."""
    world.room.most = 0  # it is never kept: the hash is the pass's own
    world.threads.gate = gate = Gate()
    first = world.join()
    await gate.reached.wait()
    first.close()
    world.threads.gate = None
    reading = asyncio.ensure_future(world.read_whole())
    await settled()
    gate.free.set()
    world.room.granted.free.set()
    assert await reading == world.upstream.wanted.data
    await world.downloads.idle()


async def test_room_for_a_body_that_nobody_waits_for_is_given_back(world: World) -> None:
    """Its reader left after the room was found and before the next byte came."""
    world.upstream.gates[1, MIB] = gate = Gate()
    reader = world.join()
    assert len(await world.read(reader, MIB)) == MIB
    await gate.reached.wait()
    world.room.granted.free.set()
    await settled()
    assert len(world.room.ledger.claims) == 1
    reader.close()
    await world.downloads.idle()
    await settled()
    assert (world.room.ledger.claims, world.room.filled) == (set(), [])


@pytest.mark.parametrize("is_kept", [True, False])
async def test_the_rest_of_a_body_goes_before_what_nobody_has_begun(world: World, is_kept: bool) -> None:
    """Whether it goes to the disk or by: who hangs on it cannot have it elsewhere."""
    world.room.is_full, world.room.most = not is_kept, 1 << 40 if is_kept else 0
    world.room.granted.free.set()
    world.upstream.cuts.add((1, 2 * MIB))
    assert await world.read_whole() == world.upstream.wanted.data
    await world.downloads.idle()
    assert world.upstream.priorities == [Priority.CLIENT, Priority.MIDWAY]


@pytest.mark.parametrize("left_after", range(6))
async def test_a_reader_may_leave_at_any_turn(world: World, left_after: int) -> None:
    """Before its pass begins too: room that is found later is used or given back, and no error is made of it."""
    reader = world.join()
    await turns(left_after)
    reader.close()
    await settled()
    world.room.granted.free.set()
    await world.downloads.idle()
    await settled()
    assert (world.room.ledger.claims, world.room.filled) == (set(), [])
    assert {event.reason for event in world.told} <= {"making_room", "no_room"}


async def test_room_for_less_than_the_whole_drops_nobody(world: World) -> None:
    """Room was waited for before the size was known: when that turns out too little, the body goes on passing by."""
    world.room.most = MIB
    world.upstream.gates[1, 2 * MIB] = gate = Gate()
    reading = asyncio.ensure_future(world.read_whole())
    await gate.reached.wait()
    world.room.granted.free.set()
    await settled()
    gate.free.set()
    assert await reading == world.upstream.wanted.data
    await world.downloads.idle()
    assert {event.reason for event in world.told} == {"no_room"}
    assert (world.room.ledger.claims, world.room.filled) == (set(), [])


async def test_a_disk_that_fills_up_once_there_is_room_drops_nobody(world: World) -> None:
    """A reader took all that the ring held; the part made of it takes nothing more."""
    world.upstream.gates[1, 2 * MIB] = gate = Gate()
    reader = world.join()
    assert len(await world.read(reader, 2 * MIB)) == 2 * MIB
    await gate.reached.wait()
    world.disk.is_full = True
    world.room.granted.free.set()
    await settled()
    gate.free.set()
    assert await world.read(reader) == world.upstream.wanted.data
    reader.close()
    await world.downloads.idle()
    assert {event.reason for event in world.told} == {"disk"}
    assert (world.room.ledger.claims, world.room.filled) == (set(), [])


async def test_a_body_that_went_by_whole_leaves_nothing_in_hand(world: World) -> None:
    """One smaller than the ring is kept afterwards: its room, its part and its memory are given back."""
    world.upstream.wanted = blob(300_000, seed=2)
    reader = world.join()
    assert await world.read(reader) == world.upstream.wanted.data
    world.room.granted.free.set()
    await world.downloads.idle()
    passing = reader.transfer.passing
    assert passing is not None
    ring = passing.ring
    assert ring.pieces
    reader.close()
    assert not ring.pieces
    assert await world.store.stat(world.upstream.wanted.digest) == 300_000
    assert (world.room.ledger.claims, world.room.filled) == (set(), [])


async def test_an_end_gone_wrong_touches_no_part_of_the_next_transfer(world: World) -> None:
    """A body goes on past a full disk and is found to be wrong, while the next transfer fills a part of that name."""
    world.room.is_full, world.disk.is_full = False, True
    wanted = world.upstream.wanted
    world.upstream.lies_in = 2
    world.upstream.gates = {(2, 5 * MIB): (wrong := Gate()), (3, MIB): (right := Gate())}
    first = world.join()
    reading = asyncio.ensure_future(world.read(first))
    await wrong.reached.wait()
    world.disk.is_full = False
    second = asyncio.ensure_future(world.read_whole())
    await right.reached.wait()
    await until(part_path(world.ground.parts, wanted.digest).exists)
    wrong.free.set()
    with pytest.raises(Exception, match="ended early"):
        await reading
    first.close()
    await settled()
    assert world.room.filled == [part_path(world.ground.parts, wanted.digest).name]
    right.free.set()
    assert await second == wanted.data
    await world.downloads.idle()
    assert await world.store.stat(wanted.digest) == wanted.size


async def test_a_body_of_unknown_size_that_the_disk_refuses_is_asked_for_once_more(world: World) -> None:
    """What is held back moves on with the pass: nobody has to fetch the blob by himself."""
    world.room.is_full, world.upstream.tells_size = False, False
    world.upstream.gates[1, 2 * MIB] = gate = Gate()
    reader = world.join()
    assert len(await world.read(reader, MIB)) == MIB
    await gate.reached.wait()
    world.disk.is_full = True
    gate.free.set()
    assert await world.read(reader) == world.upstream.wanted.data
    reader.close()
    await world.downloads.idle()
    assert world.upstream.asked == [0, 2 * MIB]


async def test_an_upstream_that_has_it_not_is_told_while_room_is_awaited(world: World) -> None:
    """Whoever remembers what is missing hears of it: nobody knows yet whether it would have been kept."""
    world.upstream.fails_in = 1
    reader = world.join()
    with pytest.raises(BlobUnknown):
        await reader.opened()
    reader.close()
    await world.downloads.idle()
    assert [(event.reason, event.source) for event in world.told] == [("blob_unknown", ORIGIN.source)]


async def test_a_digest_is_forbidden_for_those_too_who_came_before(world: World) -> None:
    """A body that passes by and whose beginning is gone left the table to the next transfer: it ends as well."""
    world.room.most = 0
    world.room.granted.free.set()
    for number in (1, 2):
        world.upstream.gates[number, 5 * MIB] = Gate()
    first = world.join()
    assert len(await world.read(first, 5 * MIB)) == 5 * MIB
    before = world.downloads.find(world.upstream.wanted.digest)
    second = world.join()
    assert world.downloads.find(world.upstream.wanted.digest) is not before
    assert len(await world.read(second, 5 * MIB)) == 5 * MIB
    world.downloads.forbid(world.upstream.wanted.digest, Denied("it is on the block list"))
    for reader in (first, second):
        with pytest.raises((Denied, TransferFailed), match="on the block list"):
            await reader.ready(5 * MIB)
        reader.close()
    await world.downloads.idle()


async def test_a_part_that_was_just_taken_is_left_when_its_transfer_ends(world: World) -> None:
    """Ended while the name is waited for: it counts as filled no longer."""
    world.room.is_full, world.room.taking = False, Gate()
    reader = world.join()
    await world.room.taking.reached.wait()
    world.downloads.forbid(world.upstream.wanted.digest, Denied("it is on the block list"))
    await world.downloads.idle()
    reader.close()
    assert world.room.filled == []
