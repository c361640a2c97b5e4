"""The downloads room over ports of the test's own: a store that commits when told, an upstream from memory."""

import asyncio
import io
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.downloads.partfile import part_path
from proxy.downloads.room import Downloads
from proxy.downloads.transfer import Origin
from proxy.errors import TransferFailed
from proxy.oci import Digest
from proxy.store.base import HOLD
from proxy.store.memory import MemoryStore
from tests.support.downloading import ORIGIN, ground_in
from tests.support.images import Blob, blob
from tests.support.oneblob import OneBlob


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


class Upstream(OneBlob):
    """Its first answer is the blob, or has other bytes and stands before their end until it is told to `lie_on`."""

    lie_on: asyncio.Event | None = None

    async def _chunks(self, offset: int) -> AsyncIterator[bytes]:
        if self.lie_on is not None and len(self.asked) == 1:
            yield b"x" * (self.wanted.size - HOLD - offset)
            await self.lie_on.wait()
            yield b"x" * HOLD
        else:
            async for chunk in super()._chunks(offset):
                yield chunk


@dataclass
class World:
    downloads: Downloads
    store: GatedStore
    upstream: Upstream
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
    upstream = Upstream(wanted)
    async with ground_in(tmp_path, store, upstream) as ground:
        yield World(Downloads(ground, max_blob_bytes=lambda: 1 << 30, max_ranges=lambda: 8), store, upstream, wanted)


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


async def test_what_is_fetched_from_zero_is_another_file(world: World, tmp_path: Path) -> None:
    """A client of a killed process may hold bytes of the lie, and asks by the file that it has them of: it is never the
    one that is verified. Readers that took none read the new one.
    """
    world.upstream.lie_on = asyncio.Event()
    part = part_path(tmp_path, world.wanted.digest)
    part.write_bytes(world.wanted.data[:1000])  # what makes the answer a splice, worth one fetch from zero
    early = world.downloads.join(world.wanted.digest, ORIGIN)
    late = world.downloads.join(world.wanted.digest, ORIGIN)
    await early.opened()
    assert await early.ready(0) > 0
    held = early.file
    world.upstream.lie_on.set()
    await late.whole()
    assert await late.ready(0) == world.wanted.size
    assert os.pread(late.file.fileno(), world.wanted.size, 0) == world.wanted.data
    assert os.fstat(held.fileno()).st_ino != part.stat().st_ino == os.fstat(late.file.fileno()).st_ino
    with pytest.raises(TransferFailed):
        await early.ready(1000)
    early.close()
    late.close()
    world.store.commit.set()
    await world.downloads.idle()


async def test_a_kept_part_that_is_too_long_is_begun_in_another_file(world: World, tmp_path: Path) -> None:
    """It is more than the manifest tells of. What a client of an earlier process has of it is not written anew beneath
    it, which a later process could not see.
    """
    part = part_path(tmp_path, world.wanted.digest)
    part.write_bytes(world.wanted.data + b"?")
    world.store.commit.set()
    with part.open("rb") as held:
        await world.downloads.fill(world.wanted.digest, Origin(ORIGIN.source, world.wanted.size))
        assert os.fstat(held.fileno()).st_size == 0
    assert world.upstream.asked == [0]
    assert await world.store.stat(world.wanted.digest) == world.wanted.size
