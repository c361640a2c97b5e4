"""The downloads room over ports of the test's own: a store that commits when told, an upstream from memory."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.downloads.room import Downloads
from proxy.downloads.transfer import Origin
from proxy.errors import UpstreamUnavailable
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
from proxy.upstream.base import BlobBody, Listing, ManifestBody, ManifestHead, Priority
from tests.support.images import Blob, blob

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
class OneBlob:
    """An upstream that holds one blob."""

    wanted: Blob
    asked: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def get_blob(
        self,
        source: Source,
        digest: Digest,
        *,
        offset: int = 0,
        stop: int | None = None,
        priority: Priority = Priority.CLIENT,
        is_urgent: Callable[[], bool] = lambda: False,
    ) -> AsyncIterator[BlobBody]:
        self.asked.append(offset)
        yield BlobBody(offset, self.wanted.size, self._chunks(offset), "memory")

    async def _chunks(self, offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, self.wanted.size, 65536):
            yield self.wanted.data[start : start + 65536]

    async def head_blob(self, source: Source, digest: Digest) -> int | None:
        return self.wanted.size

    async def head_manifest(self, source: Source, target: str | Digest) -> ManifestHead:
        raise UpstreamUnavailable("up.example", "it has blobs only")

    async def get_manifest(self, source: Source, target: str | Digest) -> ManifestBody:
        raise UpstreamUnavailable("up.example", "it has blobs only")

    async def tags(self, source: Source, query: dict[str, str]) -> Listing:
        raise UpstreamUnavailable("up.example", "it has blobs only")

    async def referrers(self, source: Source, digest: Digest, query: dict[str, str]) -> Listing:
        raise UpstreamUnavailable("up.example", "it has blobs only")

    def in_trouble(self, source: Source) -> bool:
        return False


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
