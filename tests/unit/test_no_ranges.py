"""A part with holes, and an upstream that knows no ranges: one answer fills them all, past what is here already."""

import asyncio
import io
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.downloads.extents import Extents
from proxy.downloads.partfile import part_path
from proxy.downloads.progress import CELL, open_map
from proxy.downloads.room import Downloads
from proxy.errors import Failure, UpstreamUnavailable
from proxy.rules import Source
from proxy.store.memory import MemoryStore
from proxy.upstream.base import BlobBody
from tests.support.downloading import ORIGIN, ground_in
from tests.support.images import Blob, blob
from tests.support.oneblob import Asked, OneBlob

SIZE = 9 * CELL + 1234
HELD = ((0, CELL), (2 * CELL, 3 * CELL), (5 * CELL, 7 * CELL), (8 * CELL, 8 * CELL + CELL // 255 * 10))


@dataclass
class FromZero(OneBlob):
    """Begins every answer at byte 0; the first one breaks off behind `cut_after` bytes."""

    tells_size: bool = True
    cut_after: int = SIZE
    sent: int = 0

    @asynccontextmanager
    async def answer(self, source: Source, asked: Asked) -> AsyncIterator[BlobBody]:
        self.asked.append(asked.start)
        yield BlobBody(0, SIZE if self.tells_size else None, self._all(len(self.asked)), "memory")

    async def _all(self, number: int) -> AsyncIterator[bytes]:
        step = 3 * CELL // 2 + 77  # no chunk ends where a hole does
        for start in range(0, SIZE, step):
            if number == 1 and start >= self.cut_after:
                raise UpstreamUnavailable("up.example", "its answer was cut short", failure=Failure.CUT)
            chunk = self.wanted.data[start : start + step]
            self.sent += len(chunk)
            yield chunk


def leave_part(folder: Path, wanted: Blob, held: Sequence[tuple[int, int]] = HELD) -> None:
    """What an ended process had fetched: bytes here and there, and the map that tells of them."""
    path, extents = part_path(folder, wanted.digest), Extents()
    with path.open("wb") as part:
        for start, stop in held:
            part.seek(start)
            part.write(wanted.data[start:stop])
            extents.add(start, stop)
    os.close(open_map(path, extents))


@pytest.fixture(scope="module")
def wanted() -> Blob:
    return blob(SIZE, seed=9)


async def fetched(folder: Path, upstream: FromZero) -> bytes:
    """The blob as a client reads it; stored at the end."""
    store, got = MemoryStore(), io.BytesIO()
    async with asyncio.timeout(20), ground_in(folder, store, upstream, rng=lambda: 0.0) as ground:
        downloads = Downloads(ground, max_blob_bytes=lambda: 1 << 30, max_ranges=lambda: 8)
        reader = downloads.join(upstream.wanted.digest, ORIGIN)
        await reader.opened()
        while (end := await reader.ready(got.tell())) > got.tell():
            got.write(os.pread(reader.file.fileno(), end - got.tell(), got.tell()))
        reader.close()
        await downloads.idle()
        assert await store.stat(upstream.wanted.digest) == SIZE
    return got.getvalue()


@pytest.mark.parametrize("tells_size", [True, False])
@pytest.mark.parametrize(("held", "asked"), [(HELD, CELL), (HELD[1:], 0)], ids=["a prefix", "none"])
async def test_one_answer_fills_every_hole(
    tmp_path: Path, wanted: Blob, held: Sequence[tuple[int, int]], asked: int, tells_size: bool
) -> None:
    """What is here is skipped, and not asked around; where the first hole is at the start, its end tells of it."""
    leave_part(tmp_path, wanted, held)
    upstream = FromZero(wanted, tells_size=tells_size)
    assert await fetched(tmp_path, upstream) == wanted.data
    assert upstream.asked == [asked]
    assert upstream.sent == SIZE


async def test_one_that_is_cut_costs_one_more(tmp_path: Path, wanted: Blob) -> None:
    """What the first one brought is not lost."""
    leave_part(tmp_path, wanted)
    upstream = FromZero(wanted, cut_after=4 * CELL)
    assert await fetched(tmp_path, upstream) == wanted.data
    assert len(upstream.asked) == 2
    assert CELL < upstream.asked[1] < 5 * CELL
