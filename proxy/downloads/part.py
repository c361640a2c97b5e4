"""The growing file of one transfer: written in runs, hashed behind, readable by anyone wherever it is filled.

Knows a path and a digest; nothing of upstreams, readers or the store. As long as a part is only appended to, its length
is its progress: after kill -9 the page cache holds every byte that a write returned for, so a new process takes the
file's length as its frontier. A hash state cannot be saved, so a kept prefix is hashed again from the file, behind the
fetch. (After a reboot nothing of this holds: the store drops the parts of another boot.)
"""

import errno
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from proxy.downloads.allotment import Allotment
from proxy.downloads.extents import Extents
from proxy.downloads.trail import Trail
from proxy.downloads.window import Buffer, Window
from proxy.oci import Digest
from proxy.store.filesystem import Filesystem
from proxy.store.threads import Threads
from proxy.tasks import Tasks

SYNC_PATIENCE: Final = 4.0  # a write may wait for the file system's journal, longer than a look at it
IOV_MAX: Final = 1024  # buffers one pwritev takes on Linux


def part_path(folder: Path, digest: Digest) -> Path:
    return folder / f"{digest.algorithm}-{digest.encoded}.part"


class Part:
    """One part file, open. `extents` are the readable bytes, `frontier` how many of them stand at its start.

    Every job gets a descriptor of its own: a cancelled caller may close the part while a thread still works.
    """

    def __init__(self, path: Path, digest: Digest, threads: Threads, tasks: Tasks, file: io.FileIO, kept: int) -> None:
        self.path = path
        self.extents = Extents(kept)
        self.window = Window()
        self.files = Filesystem()
        self.allotment: Allotment | None = None  # the room that writes are covered by
        self._digest = digest
        self._threads = threads
        self._tasks = tasks
        self._file = file
        self._trail = self._new_trail()

    @classmethod
    async def open(
        cls, folder: Path, digest: Digest, threads: Threads, tasks: Tasks, files: Filesystem | None = None
    ) -> "Part":
        """Open the part of `digest`, with what an earlier process left of it. OSError: the disk refuses."""
        path, files = part_path(folder, digest), files or Filesystem()
        file, kept = await threads.soon(_open, files, path, unclaimed=lambda opened: opened[0].close())
        part = cls(path, digest, threads, tasks, file, kept)
        part.files = files
        return part

    @property
    def frontier(self) -> int:
        return self.extents.frontier

    @property
    def hashed(self) -> int:
        return self._trail.hashed

    def share(self) -> io.FileIO:
        """A file of its own for reading, the caller's to close."""
        return io.FileIO(self._descriptor(), "rb")

    def _descriptor(self) -> int:
        if self._file.closed:
            raise OSError(errno.EBADF, "the part is closed")
        return os.dup(self._file.fileno())

    def _new_trail(self) -> Trail:
        return Trail(self._digest, self._threads, self._tasks, self._descriptor, self.window)

    async def write(self, offset: int, chunks: Sequence[Buffer]) -> None:
        """Write held `chunks` at `offset`; when it returns they can be read, and the hash will follow and free them.

        One write at a time for each run. OSError: the disk refuses; NotKept: there is no room. Nothing of this write
        counts then.
        """
        if self.allotment is not None:
            self.allotment.cover(offset + sum(map(len, chunks)))
        written = await self._threads.soon(
            _write, self.files, self._descriptor(), chunks, offset, patience=SYNC_PATIENCE
        )
        self.extents.add(offset, offset + written)
        if self.allotment is not None:
            self.allotment.wrote(self.extents.total)
        self._trail.follow(offset, chunks, self.frontier)

    async def matches(self) -> bool:
        """Whether all bytes up to the frontier hash to the digest. OSError: they cannot be read back."""
        await self._trail.caught_up(self.frontier)
        return self._trail.matches()

    async def rewind(self, length: int) -> None:
        """Keep only the first `length` bytes, which are hashed anew. No write runs meanwhile."""
        await self._trail.stop()
        await self._threads.disk(_truncate, self._descriptor(), length)
        self.extents.keep(length)
        self._trail = self._new_trail()

    async def discard(self) -> None:
        """Delete the file; whoever shares it can still read what is there."""
        await self._threads.soon(discard, self.path)

    def close(self) -> None:
        self._file.close()


def _open(files: Filesystem, path: Path) -> tuple[io.FileIO, int]:
    descriptor = files.open(path, os.O_RDWR | os.O_CREAT)
    file = io.FileIO(descriptor, "r+b")
    return file, os.fstat(descriptor).st_size


def _truncate(descriptor: int, length: int) -> None:
    with io.FileIO(descriptor, "r+b") as file:
        file.truncate(length)


def _write(files: Filesystem, descriptor: int, chunks: Sequence[Buffer], offset: int) -> int:
    total = 0
    try:
        for start in range(0, len(chunks), IOV_MAX):
            total += _write_all(files, descriptor, chunks[start : start + IOV_MAX], offset + total)
    finally:
        os.close(descriptor)
    return total


def _write_all(files: Filesystem, descriptor: int, chunks: Sequence[Buffer], offset: int) -> int:
    """pwritev, and after a short write (a disk nearly full) the rest, so that the next call tells the errno."""
    wanted = sum(map(len, chunks))
    written = files.pwritev(descriptor, chunks, offset)
    if written < wanted:
        rest = memoryview(b"".join(chunks))
        while written < wanted:
            written += files.pwritev(descriptor, [rest[written:]], offset + written)
    return wanted


def discard(path: Path) -> None:
    """Delete a part file; nothing if it is gone."""
    path.unlink(missing_ok=True)
