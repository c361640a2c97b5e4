"""Several hands at one blob, and an upstream that is busy, or knows no ranges: nobody waits for ever, or pays twice."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.downloads.pace import Lessons
from proxy.downloads.pieces import PIECE
from proxy.downloads.room import Downloads
from proxy.oci import Digest
from proxy.rules import Source
from proxy.store.memory import MemoryStore
from proxy.upstream.base import BlobBody, Priority
from tests.support.clock import Clock
from tests.support.downloading import ORIGIN, ground_in
from tests.support.images import Blob, blob
from tests.support.oneblob import Asked, BlobsOnly
from tests.support.waiting import until

MIB = 1 << 20
SIZE = 48 * MIB
FAR = 24 * MIB + 192 * 1024  # further than two pieces: a reader there gets a range of its own; amid a chunk
SLOW = 2 * MIB  # after so much a second has passed


@dataclass
class Upstream(BlobsOnly):
    """Answers in pieces of 1 MiB, the first answer slowly; the helper's request, which goes behind clients, waits until
    it `is_urgent`. One that is `deaf` to ranges begins at zero whatever it is asked. `sent` are the bytes of all.
    """

    wanted: Blob
    clock: Clock
    deaf: bool = False
    asked: list[Asked] = field(default_factory=list)
    sent: int = 0
    is_known: bool = False  # no helper will be sent
    written: Callable[[], int] = lambda: 0

    def get_blob(
        self,
        source: Source,
        digest: Digest,
        *,
        offset: int = 0,
        stop: int | None = None,
        priority: Priority = Priority.CLIENT,
        is_urgent: Callable[[], bool] = lambda: False,
    ) -> AbstractAsyncContextManager[BlobBody]:
        return self._behind(source, Asked(offset, stop, priority), is_urgent)

    @asynccontextmanager
    async def _behind(self, source: Source, asked: Asked, is_urgent: Callable[[], bool]) -> AsyncIterator[BlobBody]:
        self.asked.append(asked)
        if asked.priority is Priority.BACKGROUND:
            await until(is_urgent, within_s=60)  # longer than the test
        async with self.answer(source, asked) as body:
            yield body

    @asynccontextmanager
    async def answer(self, source: Source, asked: Asked) -> AsyncIterator[BlobBody]:
        start = 0 if self.deaf else asked.start
        stop = SIZE if self.deaf or asked.stop is None else asked.stop
        yield BlobBody(start, SIZE, self._pieces(start, stop, is_first=len(self.asked) == 1), "memory")

    async def _pieces(self, start: int, stop: int, *, is_first: bool) -> AsyncIterator[bytes]:
        for at in range(start, stop, MIB):
            if is_first and at == SLOW:
                await until(lambda: self.written() == SLOW)
                self.clock.advance(1.0)
            if is_first and at == SLOW + 2 * MIB and not self.is_known:
                await until(lambda: len(self.asked) > 1)  # a helper was sent
            self.sent += MIB
            yield self.wanted.data[at : at + MIB]


@pytest.fixture(scope="module")
def wanted() -> Blob:
    return blob(SIZE, seed=11)


async def read_from(downloads: Downloads, digest: Digest, offset: int) -> None:
    """A reader that begins at an offset, and takes what it gets to the end."""
    reader = downloads.join(digest, ORIGIN)
    try:
        await reader.opened()
        while (end := await reader.ready(offset)) > offset:
            offset = end
    finally:
        reader.close()


@asynccontextmanager
async def downloads_of(folder: Path, upstream: Upstream) -> AsyncIterator[tuple[Downloads, MemoryStore]]:
    store = MemoryStore()
    async with (
        asyncio.timeout(30),
        ground_in(folder, store, upstream, rng=lambda: 0.0, monotonic=upstream.clock.monotonic) as ground,
    ):
        downloads = Downloads(ground, max_blob_bytes=lambda: 1 << 30, max_ranges=lambda: 8)

        def written() -> int:
            transfer = downloads.find(upstream.wanted.digest)
            return 0 if transfer is None else transfer.frontier

        upstream.written = written
        yield downloads, store


async def filled(folder: Path, upstream: Upstream, *offsets: int) -> None:
    """The blob, stored, as readers from these offsets had it."""
    digest = upstream.wanted.digest
    async with downloads_of(folder, upstream) as (downloads, store):
        await asyncio.gather(*(read_from(downloads, digest, offset) for offset in offsets))
        await downloads.idle()
        assert await store.stat(digest) == SIZE


@pytest.mark.parametrize("offsets", [(FAR,), (0, FAR)], ids=["alone", "beside one from the start"])
async def test_who_waits_for_a_helper_lets_it_go_first(
    tmp_path: Path, wanted: Blob, clock: Clock, offsets: tuple[int, ...]
) -> None:
    """A helper goes behind clients only as long as no client waits for what it is to bring."""
    upstream = Upstream(wanted, clock)
    await filled(tmp_path, upstream, *offsets)
    assert [(one.start, one.stop) for one in upstream.asked[:2]] == [(0, None), (FAR, FAR + PIECE)]
    assert upstream.sent <= SIZE + MIB  # the chunk that the first answer was cut in


async def test_what_a_helper_cannot_bring_comes_with_the_answer_that_runs(
    tmp_path: Path, wanted: Blob, clock: Clock
) -> None:
    """At an upstream that knows no ranges the helper is refused; the first answer is not hung up on for its piece."""
    upstream = Upstream(wanted, clock, deaf=True)
    await filled(tmp_path, upstream, FAR)
    assert [(one.start, one.stop) for one in upstream.asked] == [(0, None), (FAR, FAR + PIECE)]
    assert upstream.sent == SIZE


async def test_an_upstream_that_knew_no_ranges_is_sent_no_helper_again(
    tmp_path: Path, wanted: Blob, clock: Clock
) -> None:
    """What was learned at one blob goes for the next, for a while."""
    upstream = Upstream(wanted, clock, deaf=True)
    counts = []
    async with downloads_of(tmp_path, upstream) as (downloads, store):
        for later, upstream.is_known in ((0.0, False), (0.0, True), (Lessons.KEPT_S, False)):
            clock.advance(later)
            upstream.asked.clear()
            await read_from(downloads, wanted.digest, FAR)
            await downloads.idle()
            await store.delete(wanted.digest)
            counts.append(len(upstream.asked))
    assert counts == [2, 1, 2]
