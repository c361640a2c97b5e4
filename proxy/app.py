"""Builds every room once, in dependency order, and closes it in reverse. No room builds its neighbours."""

import asyncio
import math
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, TypeVar

from proxy.capacity import Capacity, Limits
from proxy.config import Config, ScrubConfig
from proxy.current import Current
from proxy.downloads.room import Downloads
from proxy.events import Events, IntegrityFailed, StoreReplaced
from proxy.evict import Evict, MakeRoom
from proxy.exchange import Exchange
from proxy.grace import Grace
from proxy.ground import Ground
from proxy.heap import allocator, keep_small
from proxy.holdings import Holdings
from proxy.hydrate import Hydrate
from proxy.keyring import Keyring
from proxy.listings import Listings
from proxy.log import logger
from proxy.manifests import Manifests
from proxy.oci import Digest
from proxy.pull import Pull
from proxy.reindex import keep_indexed
from proxy.rules import Rules
from proxy.server.carrier import Carrier
from proxy.server.data import Data
from proxy.server.probes import Probes
from proxy.server.registry import Registry
from proxy.signing import Keys
from proxy.store.ballast import BALLAST
from proxy.store.filesystem import Filesystem
from proxy.store.opened import Disk, open_disk
from proxy.tags import Tags
from proxy.tasks import Tasks
from proxy.upstream.client import Clients
from proxy.upstream.dialler import Resolver
from proxy.uses import Uses
from proxy.verify import Mend, Pace, Scrub, Verify

log = logger("app")
BALLAST_SHARE: Final = 64  # of a cap, the room put by for a start may take one part in so many
Kind = TypeVar("Kind", bound=Registry)


@dataclass(frozen=True, slots=True)
class World:
    """What differs between a server and a test: time, chance, names, environment, and how the disk is written to."""

    clock: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    rng: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    resolver: Resolver | None = None
    files: Filesystem = field(default_factory=Filesystem)


@dataclass(slots=True)
class Rooms:
    """Every room of a running server."""

    current: Current
    events: Events
    tasks: Tasks
    disk: Disk
    capacity: Capacity
    upstreams: Clients
    downloads: Downloads
    manifests: Manifests
    tags: Tags
    pull: Pull
    listings: Listings
    hydrate: Hydrate
    holdings: Holdings
    evict: Evict
    make_room: MakeRoom
    uses: Uses
    verify: Verify
    scrub: Scrub
    grace: Grace
    ground: Ground
    keys: Keys
    carrier: Carrier
    world: World

    @property
    def config(self) -> Config:
        """The configuration of this moment."""
        return self.current.config

    @property
    def rules(self) -> Rules:
        """The rules of this moment."""
        return self.current.rules


@asynccontextmanager
async def open_rooms(config: Config, world: World | None = None) -> AsyncIterator[Rooms]:
    """Open the rooms behind the edge. Raises StoreBusy, StoreRefused, ConfigInvalid or OSError."""
    world = world or World()
    async with AsyncExitStack() as stack:
        events, current = Events(), Current(config)
        disk = await stack.enter_async_context(_open_disk(config, events, world))
        tasks = Tasks()
        upstreams = await stack.enter_async_context(_clients(config, tasks, events, world))
        stack.push_async_callback(tasks.stop)
        capacity = await _counted(disk, current, tasks, events, world)
        ground = _ground(disk, capacity, upstreams, tasks, events, world)
        downloads = Downloads(ground, max_blob_bytes=current.max_blob_bytes, max_ranges=current.max_ranges)
        manifests = Manifests(ground)
        grace = Grace(ground, lambda: current.config.credential_grace_s)
        await grace.begin()
        tags = Tags(ground, manifests, grace)
        pull = Pull(ground, downloads, manifests, tags, grace, is_blocked=current.is_blocked)
        listings = Listings(ground, manifests)
        hydrate = Hydrate(
            ground,
            pull,
            manifests,
            lambda rule, place: current.rules.route_in(rule, place),
            concurrency=lambda: current.config.hydrate.concurrency,
        )
        holdings = Holdings(ground)
        evict = Evict(ground, holdings, manifests, lambda: current.rules)
        rooms = Rooms(
            current,
            events,
            tasks,
            disk,
            capacity,
            upstreams,
            downloads,
            manifests,
            tags,
            pull,
            listings,
            hydrate,
            holdings,
            evict,
            MakeRoom(ground, capacity, holdings, evict, lambda: current.rules, downloads.is_running),
            Uses(ground),
            *_checks(disk, ground, pull, manifests, current),
            grace,
            ground,
            await _keys(config, disk, events, tasks, world),
            Carrier(config.registry.name, pull, disk.threads),
            world,
        )
        _start(rooms)
        yield rooms


def _clients(config: Config, tasks: Tasks, events: Events, world: World) -> Clients:
    return Clients(
        config,
        tasks,
        clock=world.clock,
        monotonic=world.monotonic,
        rng=world.rng,
        sleep=world.sleep,
        environ=world.environ,
        resolver=world.resolver,
        on_request=events.publish,
        on_judged=events.publish,
    )


def _start(rooms: Rooms) -> None:
    """Begin what runs beside the requests."""
    start, ground = rooms.tasks.start, rooms.ground
    start(rooms.hydrate.listen(), name="hydrate: listen")
    start(rooms.hydrate.run(), name="hydrate: run")
    start(keep_indexed(ground, rooms.manifests, rooms.disk.index), name="reindex")
    start(rooms.uses.listen(), name="uses: listen")
    start(rooms.grace.keep(), name="grace: keep")
    start(rooms.capacity.run(), name="capacity: count")
    start(rooms.make_room.run(), name="evict: make room")
    start(rooms.scrub.run(), name="scrub")
    start(keep_small(allocator(), rooms.disk.threads, rooms.world.sleep), name="heap: keep small")


async def _counted(disk: Disk, current: Current, tasks: Tasks, events: Events, world: World) -> Capacity:
    """The capacity of a directory, looked at once and, unless it holds a great many blobs, counted."""
    capacity = Capacity(
        disk,
        lambda: Limits(current.config.cache.max_size, current.config.cache.keep_free),
        tasks,
        events,
        clock=world.clock,
        monotonic=world.monotonic,
        pause=world.sleep,
    )
    await capacity.begin()
    return capacity


def _checks(disk: Disk, ground: Ground, pull: Pull, manifests: Manifests, current: Current) -> tuple[Verify, Scrub]:
    """The check on demand and the one in the background."""
    mend = Mend(ground, pull, manifests, lambda: current.rules)
    return Verify(ground, mend), Scrub(ground, disk.seals, lambda: _pace(current.config.cache.scrub), mend)


async def _keys(config: Config, disk: Disk, events: Events, tasks: Tasks, world: World) -> Keys:
    """The keys of the data address, kept as the configuration has them."""
    keyring = Keyring(Keys(world.clock), disk.directory.root, disk.threads, disk.files, world.environ)
    await keyring.take(config)
    keyring.listen(events, tasks)
    return keyring.keys


def _pace(scrub: ScrubConfig) -> Pace:
    return Pace(scrub.every_s, math.inf if scrub.max_bandwidth is None else scrub.max_bandwidth)


def _open_disk(config: Config, events: Events, world: World) -> AbstractAsyncContextManager[Disk]:
    def on_bad(digest: Digest, why: str, aside: str) -> None:
        events.publish(IntegrityFailed("store", digest, None, f"{why}; {f'set aside as {aside}' if aside else 'gone'}"))

    def on_replaced() -> None:
        events.publish(StoreReplaced())

    return open_disk(
        config.cache.directory,
        files=world.files,
        ballast=(config.cache.max_size.bytes or math.inf) >= BALLAST_SHARE * BALLAST,
        pause=world.sleep,
        clock=world.clock,
        on_bad=on_bad,
        on_replaced=on_replaced,
    )


def _ground(disk: Disk, capacity: Capacity, upstreams: Clients, tasks: Tasks, events: Events, world: World) -> Ground:
    return Ground(
        blobs=disk.blobs,
        records=disk.records,
        index=disk.index,
        parts=disk.parts,
        threads=disk.threads,
        upstreams=upstreams,
        tasks=tasks,
        events=events,
        files=disk.files,
        capacity=capacity,
        clock=world.clock,
        monotonic=world.monotonic,
        rng=world.rng,
        sleep=world.sleep,
    )


def registry_of(rooms: Rooms, probes: Probes, observe: Callable[[Exchange], None]) -> Registry:
    """The registry address's handler over the rooms."""
    return registry_as(Registry, rooms, probes, observe)


def registry_as(kind: type[Kind], rooms: Rooms, probes: Probes, observe: Callable[[Exchange], None]) -> Kind:
    """The registry address's handler of a kind of its own."""
    return kind(
        rooms.config.registry.name,
        lambda: rooms.rules,
        rooms.pull,
        rooms.listings,
        probes,
        rooms.carrier,
        rooms.keys,
        observe=observe,
    )


def data_of(rooms: Rooms, probes: Probes, observe: Callable[[Exchange], None]) -> Data:
    """The data address's handler over the rooms."""
    return Data(lambda: rooms.rules, probes, rooms.carrier, rooms.keys, observe=observe)
