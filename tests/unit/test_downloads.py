"""The downloads room over ports of the test's own: a store that commits when told, an upstream from memory."""

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.downloads.room import Downloads
from proxy.downloads.transfer import Origin
from proxy.events import Events
from proxy.ground import Ground
from proxy.oci import Digest
from proxy.rules import Source
from proxy.store.filesystem import Filesystem
from proxy.store.index import SqliteIndex
from proxy.store.memory import MemoryStore
from proxy.store.records import SqliteRecords
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from tests.support.images import Blob, blob
from tests.support.oneblob import OneBlob

ORIGIN = Origin(Source("up.example", "team/app"))


class GatedStore(MemoryStore):
    """A store whose commit stands at a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.committing = asyncio.Event()
        self.commit = asyncio.Event()

    async def adopt(self, part: Path, digest: Digest, size: int) -> None:
        self.committing.set()
        await self.commit.wait()
        await super().adopt(part, digest, size)


@dataclass
class World:
    downloads: Downloads
    store: GatedStore
    upstream: OneBlob
    wanted: Blob

    async def read(self, offset: int = 0) -> bytes:
        """One reader's bytes from `offset` to the end."""
        reader = self.downloads.join(self.wanted.digest, ORIGIN)
        try:
            await reader.opened()
            got = io.BytesIO()
            while (end := await reader.ready(offset)) > offset:
                reader.file.seek(offset)
                got.write(reader.file.read(end - offset))
                offset = end
            return got.getvalue()
        finally:
            reader.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    wanted, store = blob(300_000), GatedStore()
    upstream = OneBlob(wanted)
    async with Threads() as threads, Tasks() as tasks:
        records, index = SqliteRecords.open(tmp_path, Filesystem()), SqliteIndex.open(tmp_path, Filesystem())
        ground = Ground(
            blobs=store,
            records=records,
            index=index,
            parts=tmp_path,
            threads=threads,
            upstreams=upstream,
            tasks=tasks,
            events=Events(),
        )
        yield World(Downloads(ground, max_blob_bytes=lambda: 1 << 30, max_ranges=lambda: 8), store, upstream, wanted)
        await tasks.stop()
        await records.close()
        await index.close()


async def test_a_joiner_during_the_commit_reads_the_whole_blob(world: World) -> None:
    """The first reader left after the digest was confirmed; who comes before the commit still gets every byte."""
    assert await world.read() == world.wanted.data
    await world.store.committing.wait()
    assert await world.read(1000) == world.wanted.data[1000:]
    world.store.commit.set()
    await world.downloads.idle()
    assert await world.store.stat(world.wanted.digest) == world.wanted.size
    assert world.upstream.asked == [0]


async def test_a_miss_that_comes_after_the_commit_finds_the_blob(world: World) -> None:
    """Two misses that do not overlap cost one fetch: the second transfer looks in the store first."""
    world.store.commit.set()
    assert await world.read() == world.wanted.data
    await world.downloads.idle()
    assert await world.read() == world.wanted.data
    await world.downloads.idle()
    assert world.upstream.asked == [0]
    assert not world.store.is_read(world.wanted.digest)  # else it would stay for ever
