"""Making room beside requests: heard at once, unhurt by what cannot be read or deleted, at rest after a failure."""

import asyncio
import errno
import threading
from pathlib import Path
from typing import Any

import pytest

from proxy import holdings
from proxy.evict import EvictReport, make_room
from proxy.evict import room as evict_room
from proxy.evict.graph import Graph
from proxy.oci import Digest
from proxy.store.base import OpenBlob
from proxy.tasks import Tasks
from tests.support.clock import Clock
from tests.support.crowded import CAP, MIB, PLACE, cache, here, images, pulled, room_for
from tests.support.images import Image, blob, manifest
from tests.support.kept import REPOSITORY, Kept
from tests.support.registry import Registry
from tests.support.waiting import settled


async def test_a_call_for_room_is_heard(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """A claim that finds no room begins a round by itself, and gets its room when it waits."""
    one, two = images(registry, 2, size=3 * MIB)
    async with cache(cache_dir, registry, clock) as rooms:
        await pulled(rooms, clock, (one, "1"), (two, "2"))
        capacity = rooms.proxy.rooms.capacity
        await capacity.look()
        async with asyncio.timeout(10):
            claim = await capacity.wait(64 * MIB - 4 * MIB - 3 * MIB)
        claim.release()
        assert not here(rooms, one)


def cannot_be_read(rooms: Kept, image: Image, error: OSError, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on the disk refuses this image's manifest, and nothing of it is remembered: as after a start."""
    store = rooms.proxy.rooms.disk.blobs
    read = store.read

    async def refused(digest: Digest) -> OpenBlob | None:
        if digest == image.digest:
            raise error
        return await read(digest)

    monkeypatch.setattr(store, "read", refused)
    rooms.proxy.rooms.holdings._contents.clear()


async def test_a_manifest_that_cannot_be_read_now_costs_no_layer(
    registry: Registry, cache_dir: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its layers are not nobody's: too few descriptors, or a slow disk, must not take a live image apart."""
    [one] = images(registry, 1)
    async with cache(cache_dir, registry, clock) as rooms:
        await pulled(rooms, clock, (one, "1"))
        cannot_be_read(rooms, one, OSError(errno.EMFILE, "too many open files"), monkeypatch)
        with pytest.raises(OSError, match="too many open files"):
            await room_for(rooms, 1000)
        assert here(rooms, one)
        monkeypatch.undo()
        rooms.proxy.rooms.capacity.wanted = 0
        await room_for(rooms, 1000)
        assert not here(rooms, one)


@pytest.mark.parametrize("is_remembered", [True, False], ids=["the index knows it", "nobody knows it"])
async def test_a_manifest_that_stays_unreadable_blocks_nothing(
    registry: Registry, cache_dir: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, is_remembered: bool
) -> None:
    """Its own layers stay, and so does what may be its own; all else can go, and in its turn it goes too."""
    two, one, three = images(registry, 3)
    other = registry.add("team/other", "1", manifest(blob(200_000, seed=80)))
    loose = registry.add_blob("team/other", blob(9000, seed=90))
    beside = registry.add_blob(REPOSITORY, blob(9000, seed=91))
    async with cache(cache_dir, registry, clock) as rooms:
        await pulled(rooms, clock, (two, "1"), (one, "2"))
        await rooms.pull(other, "1", "team/other")
        clock.advance(900)
        await pulled(rooms, clock, (three, "3"))
        assert (await rooms.proxy.pull(loose, "team/other")).status == 200
        assert (await rooms.proxy.pull(beside)).status == 200
        await rooms.proxy.quiet()
        clock.advance(900)
        cannot_be_read(rooms, one, OSError(errno.EACCES, "permission denied"), monkeypatch)
        if is_remembered:
            await room_for(rooms, 30_000)
            assert not rooms.has(beside.digest), "not its own"
            assert [here(rooms, image) for image in (one, two, three, other)] == [True, False, True, True]
        else:
            await rooms.proxy.rooms.disk.index.forget_manifests(PLACE, [one.digest])
            await room_for(rooms, 1000)
            assert rooms.has(beside.digest), "it may be its own"
            assert [here(rooms, image) for image in (one, two, three, other)] == [True, True, True, True]
        assert not rooms.has(loose.digest), "of another place: not its own"
        await room_for(rooms, 1000)
        assert not rooms.has(one.manifest.digest)
        assert not rooms.has(one.layers[1].digest)
        assert [here(rooms, image) for image in (two, three, other)] == [not is_remembered, True, True]
        await room_for(rooms, 150_000 if is_remembered else 300_000)
        assert here(rooms, three)
        assert not here(rooms, other)


async def test_what_cannot_be_deleted_keeps_nothing_else(
    registry: Registry, cache_dir: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part, a bad file and a blob that the disk will not let go of: what is behind them goes all the same."""
    [one] = images(registry, 1)
    loose, bad = (registry.add_blob(REPOSITORY, blob(9000, seed=n)) for n in (90, 91))
    async with cache(cache_dir, registry, clock) as rooms:
        await pulled(rooms, clock, (one, "1"))
        for wanted in (loose, bad):
            await rooms.proxy.pull(wanted)
            await rooms.proxy.quiet()
        await rooms.proxy.rooms.disk.blobs.condemn(bad.digest, "the test says so")
        (rooms.proxy.rooms.disk.parts / f"sha256-{'0' * 64}.part").write_bytes(bytes(300_000))
        await rooms.proxy.rooms.capacity.count()
        clock.advance(900)
        stuck = (loose.digest.encoded, bad.digest.encoded, "0" * 64)
        files = rooms.proxy.rooms.disk.files
        unlink = files.unlink

        def refused(path: Path) -> None:
            if any(name in path.name for name in stuck):
                raise OSError(errno.EPERM, "operation not permitted")
            unlink(path)

        monkeypatch.setattr(files, "unlink", refused)
        await room_for(rooms, 1000)
        assert rooms.has(loose.digest)
        assert not here(rooms, one)


@pytest.mark.parametrize("work", ["graph_of", "Graph.prospect", "brought_up_to_date", "named", "_put_together"])
async def test_a_round_leaves_the_event_loop_free(
    registry: Registry, cache_dir: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """While any of the long pieces of a round is under way, clients are served."""
    modules: dict[str, tuple[Any, str]] = {
        "graph_of": (evict_room, "graph_of"),
        "Graph.prospect": (Graph, "prospect"),
        "brought_up_to_date": (make_room, "brought_up_to_date"),
        "named": (make_room, "named"),
        "_put_together": (holdings, "_put_together"),
    }
    where, name = modules[work]
    [one] = images(registry, 1)
    begun, may_go_on = threading.Event(), threading.Event()
    real = getattr(where, name)

    def held(*args: Any) -> Any:
        begun.set()
        assert may_go_on.wait(10), "the event loop stood still"
        return real(*args)

    async with cache(cache_dir, registry, clock) as rooms, Tasks() as tasks:
        await pulled(rooms, clock, (one, "1"))
        monkeypatch.setattr(where, name, held)
        monkeypatch.setattr(holdings, "MANY", 1)
        running = tasks.start(room_for(rooms, 1000), name="a round")
        assert await asyncio.to_thread(begun.wait, 10)
        assert (await rooms.proxy.ask(f"{REPOSITORY}/manifests/1", method="HEAD")).status == 200
        may_go_on.set()
        assert (await running).manifests == 1


async def test_a_round_that_fails_is_followed_by_a_rest(
    registry: Registry, cache_dir: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever finds no room calls again at once; a disk that refuses is not walked over and over for it."""
    async with cache(cache_dir, registry, clock) as rooms:
        rounding, capacity = rooms.proxy.rooms.make_room, rooms.proxy.rooms.capacity
        rounds, resting = list[str](), asyncio.Event()

        async def refused() -> EvictReport:
            rounds.append("refused")
            raise OSError(errno.EIO, "the disk refuses")

        async def rest(_seconds: float) -> None:
            resting.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(rounding, "round", refused)
        monkeypatch.setattr(rounding, "_sleep", rest)
        capacity.ledger.claim(CAP)
        capacity.short.set()
        async with asyncio.timeout(10):
            await resting.wait()
        capacity.short.set()
        await settled()
        assert rounds == ["refused"]
