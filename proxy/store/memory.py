"""The twin of the disk store for tests: blobs in memory, handed out as real files so that `sendfile` works on them."""

import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from proxy.oci import Digest
from proxy.store.base import OpenBlob, Stored, Verdict
from proxy.store.filesystem import Filesystem, forget


class MemoryStore:
    """A BlobStore that keeps nothing."""

    def __init__(self) -> None:
        self._blobs: dict[Digest, bytes] = {}
        self._readers: dict[Digest, list[OpenBlob]] = {}

    async def stat(self, digest: Digest) -> int | None:
        return len(self._blobs[digest]) if digest in self._blobs else None

    async def read(self, digest: Digest) -> OpenBlob | None:
        if digest not in self._blobs:
            return None
        data = self._blobs[digest]
        file = io.FileIO(os.memfd_create("blob", os.MFD_CLOEXEC), "r+b")
        file.write(data)
        file.seek(0)
        opened = OpenBlob(file, len(data))
        readers = self._readers.setdefault(digest, [])
        readers.append(opened)
        opened.on_close = lambda: readers.remove(opened)
        return opened

    def is_read(self, digest: Digest) -> bool:
        return bool(self._readers.get(digest))

    async def adopt(self, part: Path, digest: Digest, size: int) -> None:
        if self._blobs.get(digest) is None:
            self._blobs[digest] = _read_whole(part, size)
        forget(Filesystem(), part)

    async def put(self, data: bytes, digest: Digest) -> None:
        if not digest.matches(data):
            raise ValueError(f"these {len(data)} bytes are not {digest}")
        self._blobs[digest] = data

    async def delete(self, digest: Digest) -> None:
        self._blobs.pop(digest, None)
        self._readers.pop(digest, None)

    async def list(self) -> AsyncIterator[Stored]:
        for digest, data in list(self._blobs.items()):
            yield Stored(digest, len(data))

    async def check(self, digest: Digest, pause: Callable[[int], Awaitable[None]]) -> Verdict:
        if digest not in self._blobs:
            return Verdict.GONE
        await pause(len(self._blobs[digest]))
        return Verdict.WHOLE if digest.matches(self._blobs[digest]) else Verdict.BAD

    async def condemn(self, digest: Digest, why: str) -> None:
        await self.delete(digest)


def _read_whole(part: Path, size: int) -> bytes:
    data = part.read_bytes()
    if len(data) != size:
        forget(Filesystem(), part)
        raise OSError(f"the part has {len(data)} bytes, not {size}")
    return data
