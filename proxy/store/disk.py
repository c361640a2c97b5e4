"""Blobs on the local disk: one plain file per blob, its bytes and nothing else, at `blobs/<algorithm>/<2 hex>/<hex>`.

A path is computed from a parsed digest only. Nothing is named before its bytes are synced, and a name is synced before
`adopt` returns: what stands under blobs/ is whole, after a crash at any step too. A failed fsync is never tried again:
the file goes.
"""

import errno
import io
import itertools
import os
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from proxy.ledger import Ledger
from proxy.log import logger
from proxy.oci import HEX, HEX_LENGTH, Digest
from proxy.store.base import OpenBlob, Stored
from proxy.store.filesystem import (
    PRIVATE_FILE,
    Filesystem,
    discarded_on_failure,
    entries,
    forget,
    opened,
    size_of_file,
    sync_folder,
    write_new,
)
from proxy.store.threads import Threads

log = logger("store")
SECTOR: Final = 512  # the unit of st_blocks, whatever the file system's own blocks are


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
        self, blobs: Path, parts: Path, threads: Threads, files: Filesystem, ledger: Ledger | None = None
    ) -> None:
        self._blobs = blobs
        self._parts = parts
        self._threads = threads
        self._files = files
        self.ledger = ledger or Ledger()
        self._reading: dict[Digest, _Reading] = {}
        self._puts = itertools.count()
        self._durable_shards: set[Path] = set()
        self._making_shard = Lock()

    def path_of(self, digest: Digest) -> Path:
        """Where a blob stands, or would."""
        return self._blobs / digest.algorithm / digest.encoded[:2] / digest.encoded

    async def stat(self, digest: Digest) -> int | None:
        return await self._threads.disk(size_of_file, self.path_of(digest))

    async def read(self, digest: Digest) -> OpenBlob | None:
        found = await self._threads.disk(_open_blob, self.path_of(digest), unclaimed=_close)
        if found is not None:
            reading = self._reading.setdefault(digest, _Reading())
            reading.readers += 1
            found.on_close = lambda: self._read_ended(digest, reading)
        return found

    def is_read(self, digest: Digest) -> bool:
        return digest in self._reading

    def _read_ended(self, digest: Digest, reading: _Reading) -> None:
        reading.readers -= 1
        if reading.readers:
            return
        self.ledger.lingering -= reading.lingering
        if self._reading.get(digest) is reading:
            del self._reading[digest]

    async def adopt(self, part: Path, digest: Digest, size: int) -> None:
        with self.ledger.changing(folder_of(digest)) as change:
            change.took(*await self._threads.disk(self._adopt, part, digest, size))

    async def put(self, data: bytes, digest: Digest) -> None:
        with self.ledger.changing(folder_of(digest)) as change:
            change.took(*await self._threads.disk(self._put, data, digest))

    async def delete(self, digest: Digest) -> None:
        with self.ledger.changing(folder_of(digest)) as change:
            freed, own = await self._threads.disk(self._delete, digest)
            change.took(-freed, own)
        # Who reads it now reads on, and the disk has its blocks back only then; who comes later reads another file.
        reading = self._reading.pop(digest, None)
        if reading is not None:
            reading.lingering = freed
            self.ledger.lingering += freed

    async def list(self) -> AsyncIterator[Stored]:
        for shard in await self._threads.disk(_shards, self._blobs):
            for stored in await self._threads.disk(_blobs_in, shard):
                yield stored

    def _put(self, data: bytes, digest: Digest) -> tuple[int, int]:
        """Returns what the shard's files take more by it, and what the shard itself takes now; so do the others."""
        if not digest.matches(data):
            raise ValueError(f"these {len(data)} bytes are not {digest}")
        target = self.path_of(digest)
        if size_of_file(target) == len(data):
            return 0, blocks_of(target.parent)
        before = blocks_of(target)
        part = self._parts / f"{digest.algorithm}-{digest.encoded}.{next(self._puts)}.put"
        write_new(self._files, part, data)
        with discarded_on_failure(self._files, part):
            self._name(part, target)
        return blocks_of(target) - before, blocks_of(target.parent)

    def _adopt(self, part: Path, digest: Digest, size: int) -> tuple[int, int]:
        target = self.path_of(digest)
        if size_of_file(target) == size:
            forget(self._files, part)
            return 0, blocks_of(target.parent)
        before = blocks_of(target)
        with discarded_on_failure(self._files, part):
            with opened(self._files, part, os.O_RDONLY) as descriptor:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_size != size:
                    raise OSError(errno.EIO, f"the part of {digest} has {found.st_size} bytes, not {size}")
                os.fchmod(descriptor, PRIVATE_FILE)
                self._files.fsync(descriptor)
            self._name(part, target)
        return blocks_of(target) - before, blocks_of(target.parent)

    def _delete(self, digest: Digest) -> tuple[int, int]:
        """Returns what was freed, and what the shard itself takes now."""
        path = self.path_of(digest)
        freed = blocks_of(path)
        forget(self._files, path)
        return freed, blocks_of(path.parent)

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


def folder_of(digest: Digest) -> str:
    """How the ledger calls the folder that a blob stands in."""
    return f"{digest.algorithm}/{digest.encoded[:2]}"


def blocks_of(path: Path) -> int:
    """What a file or folder takes on its disk, in bytes; nothing if it is not there."""
    try:
        return os.lstat(path).st_blocks * SECTOR
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _open_blob(path: Path) -> OpenBlob | None:
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
        return OpenBlob(io.FileIO(descriptor, "rb"), found.st_size)
    os.close(descriptor)
    return None


def _close(blob: OpenBlob | None) -> None:
    if blob is not None:
        blob.close()


def _shards(blobs: Path) -> list[Path]:
    return [
        Path(shard.path)
        for algorithm in HEX_LENGTH
        for shard in entries(blobs / algorithm)
        if shard.is_dir(follow_symlinks=False)
    ]


def _blobs_in(shard: Path) -> list[Stored]:
    """The blobs of one shard; a name that is no digest of this shard, or no plain file, is not one."""
    found: list[Stored] = []
    algorithm = shard.parent.name
    for entry in entries(shard):
        name = entry.name
        if len(name) != HEX_LENGTH[algorithm] or HEX.fullmatch(name) is None or name[:2] != shard.name:
            continue
        with suppress(FileNotFoundError):  # deleted since the folder was read
            if entry.is_file(follow_symlinks=False):
                told = entry.stat(follow_symlinks=False)
                found.append(Stored(Digest(algorithm, name), told.st_size, told.st_blocks * SECTOR))
    return found
