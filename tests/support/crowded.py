"""A cache of 64 MiB with images in it, and calls for room."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.evict import EvictReport
from proxy.rules import Place
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.kept import REPOSITORY, Kept
from tests.support.proxy import UPSTREAM, config_text, running
from tests.support.registry import Registry

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
