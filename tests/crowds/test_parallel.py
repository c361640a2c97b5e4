"""Parallel ranges: as many connections as help; whatever becomes of one, every byte is right and is sent once."""

import asyncio
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.downloads.crew import WORTH
from proxy.downloads.pieces import PIECE
from proxy.downloads.room import Downloads
from proxy.errors import CisternError, TransferFailed, UpstreamLied, UpstreamThrottled, UpstreamUnavailable
from proxy.store.memory import MemoryStore
from proxy.tasks import Tasks
from proxy.upstream.base import Priority
from tests.support.downloading import ORIGIN, ground_in
from tests.support.images import Blob, blob
from tests.support.metered import STEP, TICK_S, Metered
from tests.support.oneblob import Asked

SIZE = 10 * PIECE + 12_345
MARGIN = 8 << 20  # what may be sent beyond the blob


@pytest.fixture(scope="module")
def wanted() -> Blob:
    return blob(SIZE, seed=5)


@dataclass
class World:
    downloads: Downloads
    store: MemoryStore
    upstream: Metered
    tasks: Tasks

    async def read(self, offset: int = 0, length: int = SIZE) -> bytes:
        """One reader's bytes."""
        reader = self.downloads.join(self.upstream.wanted.digest, ORIGIN)
        try:
            await reader.opened()
            got, stop = io.BytesIO(), min(offset + length, self.upstream.wanted.size)
            while offset < stop and (end := min(stop, await reader.ready(offset))) > offset:
                got.write(os.pread(reader.file.fileno(), end - offset, offset))
                offset = end
            return got.getvalue()
        finally:
            reader.close()

    async def turned(self, work: Awaitable[bytes]) -> bytes:
        """Let time pass until `work` is done."""
        running = asyncio.ensure_future(work)
        async with asyncio.timeout(20):
            while not running.done():
                await self.upstream.tick()
        return await running

    async def passed(self, seconds: float) -> None:
        """Let so much time pass."""
        while self.upstream.now < seconds:
            await self.upstream.tick()

    async def stored(self) -> bytes | None:
        async with asyncio.timeout(20):
            await self.downloads.idle()
        held = await self.store.read(self.upstream.wanted.digest)
        if held is None:
            return None
        with held.file as file:
            return file.read()


@asynccontextmanager
async def world(folder: Path, upstream: Metered, most: int = 8) -> AsyncIterator[World]:
    """The downloads room over a metered upstream, with its parts in `folder`."""
    store = MemoryStore()
    async with ground_in(folder, store, upstream, monotonic=upstream.monotonic, rng=lambda: 0.0) as ground:
        downloads = Downloads(ground, max_blob_bytes=lambda: 1 << 30, max_ranges=lambda: most)
        yield World(downloads, store, upstream, ground.tasks)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("sha256-*"))


async def test_an_upstream_that_limits_each_connection_is_asked_on_several(tmp_path: Path, wanted: Blob) -> None:
    """The connections grow while the sum does; the reader gets every byte, and the upstream sends each of them once."""
    upstream = Metered(wanted)
    async with world(tmp_path, upstream) as here:
        assert await here.turned(here.read()) == wanted.data
        assert await here.stored() == wanted.data
    assert 4 <= upstream.most <= 8
    assert upstream.now < SIZE / STEP * TICK_S / 2
    assert upstream.sent <= SIZE + MARGIN
    assert {asked.priority for asked in upstream.asked[1:] if asked.stop is not None} >= {Priority.BACKGROUND}
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("most", [1, 3])
async def test_never_more_than_allowed(tmp_path: Path, wanted: Blob, most: int) -> None:
    """`limits.max_ranges_per_blob` is the most for one blob; one means one request."""
    upstream = Metered(wanted)
    async with world(tmp_path, upstream, most) as here:
        assert await here.turned(here.read()) == wanted.data
    assert upstream.most == most
    assert most > 1 or len(upstream.asked) == 1


async def test_a_blob_of_less_than_is_worth_it_is_asked_for_once(tmp_path: Path) -> None:
    """However slow its connections are, a layer of common size costs one request."""
    upstream = Metered(blob(WORTH - 1, seed=7))
    async with world(tmp_path, upstream) as here:
        assert await here.turned(here.read(length=WORTH)) == upstream.wanted.data
    assert [(asked.start, asked.stop) for asked in upstream.asked] == [(0, None)]


async def test_an_upstream_that_limits_all_is_left_with_one(tmp_path: Path, wanted: Blob) -> None:
    """A second connection that brings no more is not asked for again, for this blob and for the next."""
    upstream = Metered(wanted, shared=True)
    async with world(tmp_path, upstream) as here:
        assert await here.turned(here.read()) == wanted.data
        assert upstream.most == 2
        assert upstream.sent <= SIZE + MARGIN
        upstream.wanted, upstream.most = blob(8 * PIECE, seed=6), 0
        assert await here.turned(here.read()) == upstream.wanted.data
    assert upstream.most == 1


def throttled(asked: Asked) -> CisternError | None:
    return UpstreamThrottled("up.example", "slow down", 1.0) if asked.priority is Priority.BACKGROUND else None


def denied_pieces(asked: Asked) -> CisternError | None:
    return UpstreamLied("up.example", "no pieces") if asked.stop is not None else None


def away(asked: Asked) -> CisternError | None:
    return UpstreamUnavailable("up.example", "away") if asked.priority is Priority.BACKGROUND else None


@pytest.mark.parametrize("refuse", [throttled, denied_pieces, away])
async def test_a_refused_helper_costs_the_client_nothing(
    tmp_path: Path, wanted: Blob, refuse: Callable[[Asked], CisternError | None]
) -> None:
    """Throttled, refused or away: what it was to bring, the first connection brings; nobody is asked in a storm."""
    upstream = Metered(wanted, refuse=refuse)
    async with world(tmp_path, upstream) as here:
        assert await here.turned(here.read()) == wanted.data
        assert await here.stored() == wanted.data
    assert len(upstream.asked) <= 5
    assert upstream.most == 1


async def test_an_upstream_that_ignores_ranges_is_asked_once_more(tmp_path: Path, wanted: Blob) -> None:
    """Where a piece is answered with the whole, no further piece is asked for, and no byte stands in a wrong place."""
    upstream = Metered(wanted, ranges=False)
    async with world(tmp_path, upstream) as here:
        assert await here.turned(here.read()) == wanted.data
        assert await here.stored() == wanted.data
    assert sum(asked.stop is not None for asked in upstream.asked) <= 2


async def test_a_wrong_piece_is_never_stored(tmp_path: Path, wanted: Blob) -> None:
    """Wrong bytes in a piece: who read them is dropped, and one fetch from zero on one connection brings the truth."""
    upstream = Metered(wanted, spoil=lambda asked, data: b"?" + data[1:] if asked.stop is not None else data)
    async with world(tmp_path, upstream) as here:
        with pytest.raises(TransferFailed):
            await here.turned(here.read())
        assert await here.turned(here.read()) == wanted.data
        assert await here.stored() == wanted.data
    assert upstream.asked[-1].stop is None


async def test_a_reader_far_ahead_gets_a_range_of_its_own(tmp_path: Path, wanted: Blob) -> None:
    """Also where more connections bring no more in all, it does not wait for what lies before it."""
    upstream = Metered(wanted, shared=True)
    async with world(tmp_path, upstream) as here:
        first = here.tasks.start(here.read(), name="first")
        await here.passed(0.6)
        offset = 8 * PIECE + 70_000
        assert await here.turned(here.read(offset, 1000)) == wanted.data[offset : offset + 1000]
        transfer = here.downloads.find(wanted.digest)
        assert transfer is not None
        assert transfer.frontier < 3 * PIECE
        assert await here.turned(first) == wanted.data
    assert upstream.most == 2
    assert upstream.sent <= SIZE + MARGIN


async def test_nobody_helps_where_nobody_reads(tmp_path: Path, wanted: Blob) -> None:
    """Hydration has one connection; helpers of a client that left end with their piece."""
    upstream = Metered(wanted)
    async with world(tmp_path, upstream) as here:

        async def hydrated() -> bytes:
            await here.downloads.fill(wanted.digest, ORIGIN)
            return b""

        await here.turned(hydrated())
        assert await here.stored() == wanted.data
    assert upstream.most == 1


@pytest.mark.parametrize("seconds", [0.9, 1.4, 1.8])
async def test_a_server_that_ends_leaves_its_pieces_to_the_next(tmp_path: Path, wanted: Blob, seconds: float) -> None:
    """What every connection had brought is kept, holes and all: the next server fetches at most 8 MiB again."""
    upstream = Metered(wanted)
    async with world(tmp_path, upstream) as here:
        reading = here.tasks.start(here.read(), name="reader")
        await here.passed(seconds)
        await here.tasks.stop()
        assert reading.done()
    assert upstream.most > 1
    async with world(tmp_path, upstream) as here:
        assert await here.turned(here.read()) == wanted.data
        assert await here.stored() == wanted.data
    assert upstream.sent <= SIZE + MARGIN
    assert left_in(tmp_path) == []


async def test_what_was_read_behind_a_hole_is_not_passed_off_as_checked(tmp_path: Path, wanted: Blob) -> None:
    """The rest passes by, hashed on its way. Who had read behind a hole, where that hash never
    looks, is dropped; who had not goes on.
    """
    upstream = Metered(wanted, shared=True)
    async with world(tmp_path, upstream) as here:
        ahead = here.downloads.join(wanted.digest, ORIGIN)
        behind = here.downloads.join(wanted.digest, ORIGIN)
        transfer = here.downloads.find(wanted.digest)
        assert transfer is not None
        transfer.extents.add(0, 1000)
        transfer.extents.add(5000, 9000)
        transfer.opened, transfer.size = True, SIZE
        assert await ahead.ready(6000) == 9000
        assert await behind.ready(0) == 1000
        transfer.forget_behind(1000)
        with pytest.raises(TransferFailed):
            await ahead.ready(7000)
        assert behind.error is None
        assert transfer.releasable(6000) == 6000
        ahead.close()
        behind.close()
