"""Room is made by dropping whole images, beside the requests; what is in use stays, and what stays is whole."""

import asyncio
import errno
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy import holdings
from proxy.events import Evicted
from proxy.evict import EvictReport, make_room
from proxy.evict import room as evict_room
from proxy.evict.graph import Graph
from proxy.evict.make_room import BUSY_S
from proxy.oci import Digest
from proxy.rules import Place
from proxy.store.base import OpenBlob
from proxy.tasks import Tasks
from tests.support.blocks import blocks_under
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.kept import REPOSITORY, Kept
from tests.support.proxy import UPSTREAM, config_text, running
from tests.support.registry import Registry
from tests.support.site import settled

MIB = 1 << 20
CAP = 64 * MIB
PLACE = Place(UPSTREAM, REPOSITORY)
BASE = blob(50_000)
QUIET = "hydrate: {image: none}\n"


def images(registry: Registry, count: int, size: int = 200_000) -> list[Image]:
    """So many images over one base layer, each with a layer of its own."""
    return [registry.add(REPOSITORY, str(n), manifest(BASE, blob(size, seed=n))) for n in range(1, count + 1)]


@asynccontextmanager
async def cache(cache_dir: Path, registry: Registry, clock: Clock, extra: str = QUIET) -> AsyncIterator[Kept]:
    """A cache of 64 MiB whose clocks the test turns. What is wanted is wanted by the test alone."""
    text = config_text(cache_dir, registry, extra).replace("cache: {", "cache: {max_size: 64MiB, keep_free: 0B, ")
    async with running(text, clock) as proxy:
        yield Kept.over(proxy)


async def pulled(rooms: Kept, clock: Clock, *wanted: tuple[Image, str]) -> None:
    """These, one a quarter of an hour, the last one long enough ago to be in nobody's use."""
    for image, tag in wanted:
        await rooms.pull(image, tag)
        clock.advance(900)
    await counted(rooms)


async def counted(rooms: Kept) -> None:
    """Wait until every pull so far has been noted."""
    await rooms.proxy.rooms.uses.noted()


async def room_for(rooms: Kept, size: int) -> EvictReport:
    """Call for `size` bytes more than are free now."""
    capacity = rooms.proxy.rooms.capacity
    await capacity.look()
    capacity.wanted = CAP  # more than there can be; the excess tells how much more
    capacity.wanted -= capacity.excess() - size
    assert capacity.excess() == size
    report = await rooms.proxy.rooms.make_room.round()
    capacity.wanted = 0
    return report


def here(rooms: Kept, image: Image) -> bool:
    return all(rooms.has(found.digest) for found in (image.manifest, *image.blobs))


async def test_the_oldest_image_goes_whole(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """With its tag and links; the layer it shares stays for the others, which are whole; the book agrees (F24, F25)."""
    one, two, three = images(registry, 3)
    async with cache(cache_dir, registry, clock) as rooms:
        rooms.proxy.hear(Evicted)
        await pulled(rooms, clock, (one, "1"), (two, "2"), (three, "3"))
        report = await room_for(rooms, 1000)
        assert (report.tags, report.manifests, report.blobs) == (1, 1, 2)
        assert not rooms.has(one.manifest.digest)
        assert here(rooms, two)
        assert here(rooms, three)
        assert [view.tags for view in await rooms.images.listing()] == [("2",), ("3",)]
        [told] = [event for event in rooms.proxy.heard if isinstance(event, Evicted)]
        assert (told.place, told.digest, told.bytes) == (PLACE, one.digest, report.bytes)
        await rooms.proxy.rooms.capacity.look()
        assert rooms.proxy.rooms.capacity.ledger.taken == blocks_under(cache_dir)
        await registry.stop()
        assert (await rooms.proxy.ask(f"{REPOSITORY}/manifests/1")).status == 503
        for image in (two, three):
            await rooms.pull(image, str(image.digest))


async def test_what_was_pulled_twice_outlives_what_was_pulled_once(
    registry: Registry, cache_dir: Path, clock: Clock
) -> None:
    """Also across a restart: places and counts are in the index."""
    one, two, three = images(registry, 3)
    async with cache(cache_dir, registry, clock) as rooms:
        await pulled(rooms, clock, (one, "1"), (two, "2"), (three, "3"), (one, "1"))
        await room_for(rooms, 1000)
        assert [here(rooms, image) for image in (one, two, three)] == [True, False, True]
    clock.advance(900)
    async with cache(cache_dir, registry, clock) as rooms:
        await room_for(rooms, 1000)
        assert [here(rooms, image) for image in (one, two, three)] == [True, False, False]


async def test_one_pull_is_one_use(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """A hundred nodes that pull one image at once use it once."""
    one, two = images(registry, 2)
    async with cache(cache_dir, registry, clock) as rooms:
        for _ in range(5):
            await rooms.pull(one, "1")
        clock.advance(900)
        await pulled(rooms, clock, (two, "2"))
        await room_for(rooms, 1000)
        assert [here(rooms, image) for image in (one, two)] == [False, True]


async def test_what_is_read_or_was_just_asked_for_stays(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """Nothing of an image goes while somebody reads of it, or pulled it a moment ago."""
    one, two = images(registry, 2)
    async with cache(cache_dir, registry, clock) as rooms:
        await pulled(rooms, clock, (one, "1"))
        await rooms.pull(two, "2")
        opened = await rooms.proxy.rooms.disk.blobs.read(one.layers[1].digest)
        assert opened is not None
        assert await room_for(rooms, 1000) == EvictReport()
        opened.close()
        clock.advance(BUSY_S + 1)
        await room_for(rooms, 400_000)
        assert not here(rooms, one)
        assert not here(rooms, two)


async def test_nothing_goes_in_vain(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """A body that would find no room even then costs no image its place."""
    one, two = images(registry, 2)
    async with cache(cache_dir, registry, clock) as rooms:
        await pulled(rooms, clock, (one, "1"), (two, "2"))
        rooms.proxy.rooms.capacity.ledger.claim(CAP - 10 * MIB)
        await rooms.proxy.rooms.capacity.look()
        rooms.proxy.rooms.capacity.wanted = 20 * MIB
        assert await rooms.proxy.rooms.make_room.round() == EvictReport()
        assert here(rooms, one)
        assert here(rooms, two)


async def test_content_that_no_image_reaches_goes_first(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """A blob that was fetched by itself is nobody's part; its link goes with it."""
    [one] = images(registry, 1)
    loose = registry.add_blob(REPOSITORY, blob(9000, seed=90))
    async with cache(cache_dir, registry, clock) as rooms:
        await pulled(rooms, clock, (one, "1"))
        await rooms.proxy.pull(loose)
        await rooms.proxy.quiet()
        clock.advance(900)
        assert await room_for(rooms, 1000) == EvictReport(blobs=1, bytes=loose.size)
        assert here(rooms, one)
        links = await rooms.proxy.rooms.disk.records.links(PLACE)
        assert loose.digest not in {link.digest for link in links}


async def test_parts_left_behind_go_before_anything(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """What a broken transfer kept is worth less than what is whole."""
    [one] = images(registry, 1)
    async with cache(cache_dir, registry, clock) as rooms:
        await pulled(rooms, clock, (one, "1"))
        left = rooms.proxy.rooms.disk.parts / f"sha256-{'0' * 64}.part"
        left.write_bytes(bytes(300_000))
        await rooms.proxy.rooms.capacity.count()
        assert await room_for(rooms, 1000) == EvictReport()
        assert not left.exists()
        assert here(rooms, one)
        assert rooms.proxy.rooms.capacity.ledger.parts == 0


async def test_a_rule_over_its_share_pays_first(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """Its images go before older ones of others."""
    one, two = images(registry, 2)
    other = registry.add("team/other", "1", manifest(blob(90_000, seed=91)))
    extra = QUIET + f"rules: [{{name: small, upstream: {UPSTREAM}/team/app, max_size: 100KB}}]\n"
    async with cache(cache_dir, registry, clock, extra) as rooms:
        await rooms.pull(other, "1", "team/other")
        clock.advance(900)
        await pulled(rooms, clock, (one, "1"), (two, "2"))
        await room_for(rooms, 1000)
        assert [here(rooms, image) for image in (other, one, two)] == [True, False, True]
        usage = await rooms.images.usage()
        assert {share.name: share.limit_bytes for share in usage.rules} == {"small": 100_000, UPSTREAM: None}


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


async def test_an_evicted_image_is_not_brought_back(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """A client of another image that asks for a shared layer queues nothing for the one that went."""
    one, two = images(registry, 2)
    async with cache(cache_dir, registry, clock, "") as rooms:
        await pulled(rooms, clock, (one, "1"), (two, "2"))
        await rooms.proxy.rooms.hydrate.finished()
        await room_for(rooms, 1000)
        assert not here(rooms, one)
        clock.advance(900)
        await rooms.pull(two, "2")
        await rooms.proxy.rooms.hydrate.finished()
        assert not rooms.has(one.manifest.digest)
        assert not rooms.has(one.layers[1].digest)
        await rooms.proxy.ask(f"{REPOSITORY}/manifests/1")
        await rooms.proxy.pull(one.layers[1])
        await rooms.proxy.rooms.hydrate.finished()
        assert here(rooms, one), "pulled again, it is an image like any other"


async def test_a_manifest_that_cannot_be_read_now_costs_no_layer(
    registry: Registry, cache_dir: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its layers are not nobody's: too few descriptors, or a slow disk, must not take a live image apart."""
    [one] = images(registry, 1)
    async with cache(cache_dir, registry, clock) as rooms:
        await pulled(rooms, clock, (one, "1"))
        store = rooms.proxy.rooms.disk.blobs
        read = store.read

        async def refused(digest: Digest) -> OpenBlob | None:
            if digest == one.digest:
                raise OSError(errno.EMFILE, "too many open files")
            return await read(digest)

        monkeypatch.setattr(store, "read", refused)
        rooms.proxy.rooms.holdings._contents.clear()  # as after a start
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
        store = rooms.proxy.rooms.disk.blobs
        read = store.read

        async def refused(digest: Digest) -> OpenBlob | None:
            if digest == one.digest:
                raise OSError(errno.EACCES, "permission denied")
            return await read(digest)

        monkeypatch.setattr(store, "read", refused)
        rooms.proxy.rooms.holdings._contents.clear()  # as after a start
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


async def test_bad_content_that_was_set_aside_goes_before_images(
    registry: Registry, cache_dir: Path, clock: Clock
) -> None:
    """The quarantine counts, so under a small cap it must be able to give way: the oldest file first."""
    [one] = images(registry, 1)
    bad = [registry.add_blob(REPOSITORY, blob(300_000, seed=n)) for n in (70, 71)]
    async with cache(cache_dir, registry, clock) as rooms:
        for wanted in bad:
            await rooms.proxy.pull(wanted)
            await rooms.proxy.quiet()
            await rooms.proxy.rooms.disk.blobs.condemn(wanted.digest, "the test says so")
        await pulled(rooms, clock, (one, "1"))
        aside = cache_dir / "quarantine"
        assert await room_for(rooms, 1000) == EvictReport()
        assert [path.name.partition(".")[0] for path in aside.iterdir()] == [f"sha256-{bad[1].digest.encoded}"]
        await rooms.proxy.rooms.capacity.look()
        assert rooms.proxy.rooms.capacity.ledger.taken == blocks_under(cache_dir)
        assert await room_for(rooms, 1000) == EvictReport()
        assert list(aside.iterdir()) == []
        assert here(rooms, one)


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
