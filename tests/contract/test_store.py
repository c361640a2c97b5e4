"""What every blob store promises: one suite over the disk store and its twin in memory."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.oci import Digest
from proxy.store.base import BlobStore, OpenBlob, Stored
from proxy.store.memory import MemoryStore
from proxy.store.opened import open_disk

DATA = bytes(range(256)) * 40
DIGEST = Digest.of(DATA)


@dataclass
class Subject:
    """A store, and the folder where its parts grow."""

    blobs: BlobStore
    parts: Path

    def part(self, data: bytes, name: str = "sha256-x.part") -> Path:
        path = self.parts / name
        path.write_bytes(data)
        return path

    async def bytes_of(self, digest: Digest) -> bytes | None:
        blob = await self.blobs.read(digest)
        return None if blob is None else drained(blob)


def drained(blob: OpenBlob) -> bytes:
    try:
        data = blob.file.readall() or b""
        assert len(data) == blob.size
        return data
    finally:
        blob.close()


@pytest.fixture(params=["disk", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Subject]:
    if request.param == "memory":
        yield Subject(MemoryStore(), tmp_path)
        return
    async with open_disk(tmp_path / "cache") as disk:
        yield Subject(disk.blobs, disk.parts)


async def test_what_is_not_here_is_none(store: Subject) -> None:
    """An unknown digest has no size and no bytes, and deleting it is nothing."""
    await store.blobs.delete(DIGEST)
    assert await store.blobs.stat(DIGEST) is None
    assert await store.blobs.read(DIGEST) is None


@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["empty", "one byte", "many"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
async def test_what_was_put_is_read_back(store: Subject, data: bytes, algorithm: str) -> None:
    """A body comes back byte for byte, with its size, whatever registered algorithm names it."""
    digest = Digest.of(data, algorithm)
    await store.blobs.put(data, digest)
    assert await store.blobs.stat(digest) == len(data)
    assert await store.bytes_of(digest) == data


async def test_put_refuses_bytes_that_are_not_the_digest(store: Subject) -> None:
    """A name in the store proves its bytes, whoever calls."""
    with pytest.raises(ValueError, match=str(DIGEST)):
        await store.blobs.put(b"something else", DIGEST)
    assert await store.blobs.stat(DIGEST) is None


async def test_adopting_takes_the_part(store: Subject) -> None:
    """After adoption the blob is here and its part is gone."""
    part = store.part(DATA)
    await store.blobs.adopt(part, DIGEST, len(DATA))
    assert await store.bytes_of(DIGEST) == DATA
    assert not part.exists()


async def test_adopting_again_drops_the_part(store: Subject) -> None:
    """What is here already stays as it is, and the second part does not linger."""
    await store.blobs.put(DATA, DIGEST)
    part = store.part(DATA)
    await store.blobs.adopt(part, DIGEST, len(DATA))
    assert await store.bytes_of(DIGEST) == DATA
    assert not part.exists()


async def test_a_part_of_another_length_is_refused(store: Subject) -> None:
    """A part that is not as long as its digest's content never becomes visible, and is dropped."""
    part = store.part(DATA[:-1])
    with pytest.raises(OSError, match="bytes, not"):
        await store.blobs.adopt(part, DIGEST, len(DATA))
    assert await store.blobs.stat(DIGEST) is None
    assert not part.exists()


async def test_a_missing_part_makes_nothing_visible(store: Subject) -> None:
    """Adopting a part that is gone is an OSError."""
    with pytest.raises(OSError, match="No such file"):
        await store.blobs.adopt(store.parts / "gone.part", DIGEST, len(DATA))
    assert await store.blobs.stat(DIGEST) is None


async def test_a_deleted_blob_can_be_read_to_its_end(store: Subject) -> None:
    """Deleting does not disturb who reads; the next one finds nothing."""
    await store.blobs.put(DATA, DIGEST)
    blob = await store.blobs.read(DIGEST)
    assert blob is not None
    await store.blobs.delete(DIGEST)
    assert await store.blobs.read(DIGEST) is None
    assert drained(blob) == DATA


async def test_readers_do_not_share_a_position(store: Subject) -> None:
    """Each open blob begins at its first byte."""
    await store.blobs.put(DATA, DIGEST)
    first, second = await store.blobs.read(DIGEST), await store.blobs.read(DIGEST)
    assert first is not None
    assert second is not None
    assert first.file.read(10) == DATA[:10]
    assert drained(second) == DATA
    first.close()


async def test_an_open_blob_can_be_sent_by_the_kernel(store: Subject) -> None:
    """`sendfile` takes an open blob's file."""
    await store.blobs.put(DATA, DIGEST)
    blob = await store.blobs.read(DIGEST)
    assert blob is not None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert os.sendfile(ours.fileno(), blob.file.fileno(), 100, 50) == 50
        assert theirs.recv(50) == DATA[100:150]
    blob.close()


async def test_every_blob_is_listed_once(store: Subject) -> None:
    """The list holds each blob with its size, whatever its algorithm."""
    bodies = [b"%d" % n * n for n in range(30)]
    wanted = {Digest.of(body, algorithm): body for body in bodies for algorithm in ("sha256", "sha512")}
    for digest, body in wanted.items():
        await store.blobs.put(body, digest)
    listed = [stored async for stored in store.blobs.list()]
    assert sorted(listed, key=str) == sorted((Stored(digest, len(body)) for digest, body in wanted.items()), key=str)


async def test_an_empty_store_lists_nothing(store: Subject) -> None:
    """A new store has no blob."""
    assert [stored async for stored in store.blobs.list()] == []


async def test_the_same_body_may_be_put_by_many_at_once(store: Subject) -> None:
    """Concurrent puts and adoptions of one digest leave one whole blob."""
    parts = [store.part(DATA, f"{n}.part") for n in range(5)]
    await asyncio.gather(
        *(store.blobs.put(DATA, DIGEST) for _ in range(5)),
        *(store.blobs.adopt(part, DIGEST, len(DATA)) for part in parts),
    )
    assert [stored async for stored in store.blobs.list()] == [Stored(DIGEST, len(DATA))]
    assert await store.bytes_of(DIGEST) == DATA
    assert list(store.parts.iterdir()) == []


async def test_a_deleted_blob_can_be_put_again(store: Subject) -> None:
    """Eviction is not for ever."""
    await store.blobs.put(DATA, DIGEST)
    await store.blobs.delete(DIGEST)
    await store.blobs.put(DATA, DIGEST)
    assert await store.bytes_of(DIGEST) == DATA
