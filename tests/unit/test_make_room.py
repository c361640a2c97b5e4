"""Room is made by dropping whole images, in an order; what is in use stays, and what stays is whole."""

from pathlib import Path

from proxy.events import Evicted
from proxy.evict import EvictReport
from proxy.evict.make_room import BUSY_S
from tests.support.blocks import blocks_under
from tests.support.clock import Clock
from tests.support.crowded import CAP, MIB, PLACE, QUIET, cache, here, images, pulled, room_for
from tests.support.images import blob, manifest
from tests.support.kept import REPOSITORY
from tests.support.proxy import UPSTREAM
from tests.support.registry import Registry


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
