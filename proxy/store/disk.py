"""Blobs on the local disk: one plain file per blob, its bytes and nothing else, at `blobs/<algorithm>/<2 hex>/<hex>`.

A path is computed from a parsed digest only. Nothing is named before its bytes are synced, and a name is synced before
`adopt` returns: what stands under blobs/ is whole, after a crash at any step too. A failed fsync is never tried again:
the file goes. A file that is not as its seal says is hashed again before it may end anywhere (`checks`).
"""

import asyncio
import errno
import io
import itertools
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Final, TypeVar

from proxy.ledger import Ledger
from proxy.log import logger
from proxy.oci import Digest
from proxy.store.base import OpenBlob, Stored, Verdict
from proxy.store.blocks import blob_path, blobs_in, blocks_of, folder_of, shards
from proxy.store.checks import Checks, Pause
from proxy.store.filesystem import (
    PRIVATE_FILE,
    Filesystem,
    discarded_on_failure,
    forget,
    opened,
    size_of_file,
    sync_folder,
    write_new,
)
from proxy.store.seals import Seal, seal_of
from proxy.store.threads import Threads

Value = TypeVar("Value")
log = logger("store")
# A suspect blob of at most so many bytes is hashed before its first byte leaves, which takes a few hundredths of a
# second: if it is bad, its client is served from the upstream on the same connection.
HASH_FIRST: Final = 8 << 20


@dataclass(slots=True)
class _Reading:
    """One stored file with readers: how many, and what it takes on the disk once it has lost its name."""

    readers: int = 0
    lingering: int = 0


class DiskStore:
    """A BlobStore below `blobs`, on the file system that also holds `parts`. Both folders exist and are ours.

    What every change does to the blocks of its folder is booked in `ledger`.
    """

    def __init__(
        self, blobs: Path, parts: Path, threads: Threads, files: Filesystem, checks: Checks, ledger: Ledger
    ) -> None:
        self._blobs = blobs
        self._parts = parts
        self._threads = threads
        self._files = files
        self._checks = checks
        self.ledger = ledger
        self._reading: dict[Digest, _Reading] = {}
        self._puts = itertools.count()
        self.passing: set[str] = set()  # files among the parts that a `put` writes now
        self._durable_shards: set[Path] = set()
        self._making_shard = Lock()

    def path_of(self, digest: Digest) -> Path:
        """Where a blob stands, or would."""
        return blob_path(self._blobs, digest)

    def forget_shards(self) -> None:
        """The directory is another one: no folder is known to be durable."""
        self._durable_shards.clear()

    async def stat(self, digest: Digest) -> int | None:
        return await self._threads.soon(size_of_file, self.path_of(digest))

    async def read(self, digest: Digest) -> OpenBlob | None:
        path = self.path_of(digest)
        found = await self._threads.soon(_open_file, path, unclaimed=_close)
        if found is None:
            return None
        file, seal = found
        try:
            blob = await self._judged(digest, path, file, seal)
        except BaseException:
            file.close()
            raise
        if blob is None:
            file.close()
            return None
        reading = self._reading.setdefault(digest, _Reading())
        reading.readers += 1
        blob.on_close = lambda: self._read_ended(digest, reading)
        return blob

    async def _judged(self, digest: Digest, path: Path, file: io.FileIO, seal: Seal) -> OpenBlob | None:
        """The open file as a blob, None if it must not be served."""
        on_fault = partial(self._checks.fault, digest, path, seal.inode)
        if not await self._checks.may_open(digest, seal):
            return None
        if await self._checks.seals.trusts(digest, seal):
            return OpenBlob(file, seal.size, None, on_fault)
        suspect = OpenBlob(file, seal.size, self._checks.begin(digest, path, file, seal), on_fault)
        if seal.size <= HASH_FIRST and not await suspect.is_whole():
            return None
        return suspect

    def is_read(self, digest: Digest) -> bool:
        return digest in self._reading

    def _read_ended(self, digest: Digest, reading: _Reading) -> None:
        reading.readers -= 1
        if reading.readers:
            return
        self.ledger.lingering -= reading.lingering
        if self._reading.get(digest) is reading:
            del self._reading[digest]

    async def check(self, digest: Digest, pause: Pause) -> Verdict:
        path = self.path_of(digest)
        try:
            found = await self._threads.soon(_open_file, path, unclaimed=_close)
        except OSError as error:
            log.warning("a stored blob cannot be opened", digest=str(digest), error=str(error))
            return Verdict.UNREADABLE
        if found is None:
            await self._checks.seals.drop(digest)
            return Verdict.GONE
        with found[0] as file:
            return await self._checks.gently(digest, path, file, pause)

    async def condemn(self, digest: Digest, why: str) -> None:
        await self._checks.condemn(digest, self.path_of(digest), None, why)

    async def adopt(self, part: Path, digest: Digest, size: int) -> None:
        trusted = self._checks.seals.recall(digest)
        await self._note(digest, await self._changed(digest, partial(self._adopt, part, digest, size, trusted)))

    async def put(self, data: bytes, digest: Digest) -> None:
        trusted = self._checks.seals.recall(digest)
        await self._note(digest, await self._changed(digest, partial(self._put, data, digest, trusted)))

    async def _changed(self, digest: Digest, work: Callable[[], tuple[int, int, Value]]) -> Value:
        """Change the shard of a digest in a disk thread. It is booked when it is done, whether or not anybody waits."""
        change = self.ledger.change(folder_of(digest))

        def ended(done: "asyncio.Future[tuple[int, int, Value]]") -> None:
            if done.cancelled() or done.exception() is not None:
                change.failed()
            else:
                change.took(*done.result()[:2])
            change.end()

        return (await self._threads.disk(work, then=ended))[2]

    async def _note(self, digest: Digest, seal: Seal | None) -> None:
        """Seal what was named just now. A seal that cannot be written is no reason to refuse the blob."""
        if seal is not None:
            with suppress(OSError):
                await self._checks.seals.note(digest, seal)

    async def delete(self, digest: Digest) -> None:
        freed = await self._changed(digest, partial(self._delete, digest))
        await self._checks.seals.drop(digest)
        # Who reads it now reads on, and the disk has its blocks back only then; who comes later reads another file.
        reading = self._reading.pop(digest, None)
        if reading is not None:
            reading.lingering = freed
            self.ledger.lingering += freed

    async def list(self) -> AsyncIterator[Stored]:
        for shard in await self._threads.disk(shards, self._blobs):
            for stored in await self._threads.disk(blobs_in, shard):
                yield stored

    def _put(self, data: bytes, digest: Digest, trusted: Seal | None) -> tuple[int, int, Seal | None]:
        """Returns what the shard's files take more by it, what the shard itself takes now, and the seal of a new file;
        so does `_adopt`.
        """
        if not digest.matches(data):
            raise ValueError(f"these {len(data)} bytes are not {digest}")
        target = self.path_of(digest)
        if trusted is not None and seal_of(target) == trusted:  # nothing speaks against what is here
            return 0, blocks_of(target.parent), None
        before = blocks_of(target)
        part = self._parts / f"{digest.algorithm}-{digest.encoded}.{next(self._puts)}.put"
        self.passing.add(part.name)
        try:
            write_new(self._files, part, data)
            with discarded_on_failure(self._files, part):
                self._name(part, target)
        finally:
            self.passing.discard(part.name)
        return blocks_of(target) - before, blocks_of(target.parent), seal_of(target)

    def _adopt(self, part: Path, digest: Digest, size: int, trusted: Seal | None) -> tuple[int, int, Seal | None]:
        target = self.path_of(digest)
        if trusted is not None and seal_of(target) == trusted:
            forget(self._files, part)
            return 0, blocks_of(target.parent), None
        before = blocks_of(target)
        with discarded_on_failure(self._files, part):
            with opened(self._files, part, os.O_RDONLY) as descriptor:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                    raise OSError(errno.EIO, f"the part of {digest} has {found.st_size} bytes, not {size}")
                os.fchmod(descriptor, PRIVATE_FILE)
                self._files.fsync(descriptor)
                seal = Seal.of(os.fstat(descriptor))
            self._name(part, target)
        return blocks_of(target) - before, blocks_of(target.parent), seal

    def _delete(self, digest: Digest) -> tuple[int, int, int]:
        """Returns what the shard's files take more by it, what the shard itself takes now, and what was freed."""
        path = self.path_of(digest)
        freed = blocks_of(path)
        forget(self._files, path)
        return -freed, blocks_of(path.parent), freed

    def _name(self, part: Path, target: Path) -> None:
        """Give a synced part its name. A name that could not be made durable is taken back."""
        self._make_shard(target.parent)
        try:
            self._files.rename(part, target)
        except FileNotFoundError:  # the shard was taken away below us, by hand
            self._durable_shards.discard(target.parent)
            raise
        with discarded_on_failure(self._files, target):
            sync_folder(self._files, target.parent)

    def _make_shard(self, shard: Path) -> None:
        if shard in self._durable_shards:
            return
        with self._making_shard:  # a second thread must not use the shard before its own name is durable
            with suppress(FileExistsError):
                self._files.mkdir(shard)
            if not stat.S_ISDIR(os.lstat(shard).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder", str(shard))
            try:
                sync_folder(self._files, shard.parent)
            except OSError:
                with suppress(OSError):  # made anew, and synced anew, next time
                    self._files.rmdir(shard)
                raise
            self._durable_shards.add(shard)


def _open_file(path: Path) -> tuple[io.FileIO, Seal] | None:
    """A blob's file, open, and how it looks; None if there is no plain file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        log.warning("a link stands where a blob belongs; it is not followed", path=str(path))
        return None
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode):
        return io.FileIO(descriptor, "rb"), Seal.of(found)
    os.close(descriptor)
    return None


def _close(found: tuple[io.FileIO, Seal] | None) -> None:
    if found is not None:
        found[0].close()
