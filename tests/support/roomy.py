"""A capacity room over an open cache directory, whose clock and pauses a test turns."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from proxy.capacity import Capacity, Limits
from proxy.config import Share
from proxy.events import Events, StorageDegraded, StorageRecovered
from proxy.oci import Digest
from proxy.store.opened import Disk, open_disk
from proxy.tasks import Tasks
from tests.support.clock import Clock
from tests.support.faulty import FaultyFilesystem

MIB = 1 << 20
GIB = 1 << 30
ONE_GIB, NOTHING = Share(bytes=GIB), Share(bytes=0)


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
