"""The growing file of one transfer: written in runs, hashed behind, readable by anyone wherever it is filled.

Knows a path and a digest; nothing of upstreams, readers or the store. As long as a part is only appended to, its length
is its progress: after kill -9 the page cache holds every byte that a write returned for, so a new process takes the
file's length as its frontier. From the first write beyond the frontier on, a map beside it tells the progress. A hash
state cannot be saved, so a kept prefix is hashed again from the file, behind the fetch. (After a reboot nothing of this
holds: the store drops the parts of another boot.)
Invariant: a part that is longer than its frontier has a map.
"""

import asyncio
import errno
import io
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.downloads.allotment import Allotment
from proxy.downloads.extents import Extents
from proxy.downloads.left import Left
from proxy.downloads.partfile import discard, part_path, renewed
from proxy.downloads.progress import cells, drop_map, open_map, read_map
from proxy.downloads.trail import Trail
from proxy.downloads.window import Window
from proxy.oci import Digest
from proxy.store.filesystem import Filesystem
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from proxy.upstream.base import Buffer

SYNC_PATIENCE: Final = 4.0  # a write may wait for the file system's journal, longer than a look at it
IOV_MAX: Final = 1024  # buffers one pwritev takes on Linux


class Part:
    """One part file, open. `extents` are the readable bytes, `frontier` how many of them stand at its start.

    Every job gets a descriptor of its own: a cancelled caller may close the part while a thread still works.
    """

    def __init__(self, path: Path, digest: Digest, threads: Threads, tasks: Tasks, opened: "Opened") -> None:
        self.path = path
        self.extents = opened.kept
        self.left = Left(opened.kept, opened.last)
        self.window = Window()
        self.files = Filesystem()
        self.allotment: Allotment | None = None  # the room that writes are covered by
        self._digest = digest
        self._threads = threads
        self._tasks = tasks
        self._file = opened.file
        self._map = opened.map
        self.extents.is_mapped = opened.map is not None
        self._mapping: asyncio.Task[io.FileIO] | None = None
        self._spare = 0  # where a byte ends that is no part of the extents any more
        self._hanging: TimeoutError | None = None  # of a write that the disk may still do
        self._trail = self._new_trail()

    @classmethod
    async def open(
        cls, folder: Path, digest: Digest, threads: Threads, tasks: Tasks, files: Filesystem | None = None
    ) -> "Part":
        """Open the part of `digest`, with what an earlier process left of it. OSError: the disk refuses."""
        path, files = part_path(folder, digest), files or Filesystem()
        opened = await threads.soon(_open, files, path, unclaimed=Opened.close)
        part = cls(path, digest, threads, tasks, opened)
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
        counts then. One that took too long may still happen, and must not do so over bytes that were hashed since, or
        in a blob that was stored: nothing is written after it.
        """
        if self._hanging is not None:
            raise TimeoutError(self._hanging.errno, self._hanging.strerror)
        stop = offset + sum(map(len, chunks))
        if self.allotment is not None:
            self.allotment.cover(stop)
        if offset > self.frontier:
            await self._begin_map()
        then = self.extents.copy()
        then.add(offset, stop)
        is_noted = self._map is not None
        await self._put(chunks, offset, then, stop)
        if not is_noted and self._mapping is not None:  # a map was begun meanwhile, and does not know of this run
            await self._begin_map()
            await self._put((), offset, then, stop)
        self.extents.add(offset, stop)
        if self.allotment is not None:
            self.allotment.wrote(self.extents.total)
        self._trail.follow(offset, chunks, self.frontier)

    async def _put(self, chunks: Sequence[Buffer], offset: int, then: Extents, stop: int) -> None:
        """Write, and note in the map, if there is one, what is there `then`."""
        self._threads.must_answer()
        with ExitStack() as unused:
            descriptor = self._descriptor()
            unused.callback(os.close, descriptor)
            note = None if self._map is None else Note(os.dup(self._map.fileno()), *cells(then, offset, stop))
            unused.pop_all()
        try:
            await self._threads.soon(_write, self.files, descriptor, chunks, offset, note, patience=SYNC_PATIENCE)
        except TimeoutError as error:
            self._hanging = error
            raise

    async def _begin_map(self) -> None:
        """See that there is a map before anything is written beyond the frontier. One for all who come at once."""
        if self._map is None:
            if self._mapping is None:
                beginning = self._threads.soon(
                    _map_file, self.path, self.extents.copy(), patience=SYNC_PATIENCE, unclaimed=io.FileIO.close
                )
                self._mapping = self._tasks.start(beginning, name="begin map", report=False)
            try:
                found = await asyncio.shield(self._mapping)
            except OSError:
                self._mapping = None
                raise
            if self._file.closed:
                found.close()
                raise OSError(errno.EBADF, "the part is closed")
            self._map = found
            self.extents.is_mapped = True

    async def matches(self) -> bool:
        """Whether all bytes up to the frontier hash to the digest. OSError: they cannot be read back."""
        await self._trail.caught_up(self.frontier)
        if self._spare > self.frontier:  # the byte that was left to be written over was one too many
            await self._cut(self.frontier)
        return self._trail.matches()

    async def rewind(self, length: int) -> None:
        """Keep only the first `length` bytes, at most the frontier, to be hashed anew. No write runs meanwhile.

        A last byte that comes anew is not cut off but written over: it may be on its way to a client of an earlier
        process by sendfile, which sends the page as it is then; cut off, it would be a zero.
        """
        await self._trail.stop()
        self._spare = length + 1 if length == self.extents.stop - 1 == self.frontier - 1 else 0
        if not self._spare:
            await self._cut(length)  # the file first: else, cut short, a map tells of bytes that its length denies
        await self.forget_map()
        self._kept_only(length)

    async def renew(self) -> None:
        """Go back to no byte at all, in a new file under the same name. No write runs meanwhile. OSError: the disk
        refuses.

        What was here may have been wrong, and may be with a client that will ask a later process, which knows nothing
        of this one: by its inode that process sees that it was given another file's bytes.
        """
        await self._trail.stop()
        self._threads.must_answer()
        file = await self._threads.soon(
            renewed, self.files, self.path, self._descriptor(), patience=SYNC_PATIENCE, unclaimed=io.FileIO.close
        )
        self._file.close()
        self._file, self._spare = file, 0
        await self.forget_map()
        self._kept_only(0)

    def _kept_only(self, length: int) -> None:
        self.extents.keep(length)
        self.left.cut(length)
        self._trail = self._new_trail()

    async def _cut(self, length: int) -> None:
        self._threads.must_answer()
        await self._threads.soon(_truncate, self._descriptor(), length, patience=SYNC_PATIENCE)

    async def discard(self) -> None:
        """Delete the file; whoever shares it can still read what is there."""
        if self._mapping is not None:  # whoever began the map may have left since
            await asyncio.wait([self._mapping])
        await self._threads.soon(discard, self.path)

    async def forget_map(self) -> None:
        """The part has no holes any more, or is gone: no map is needed."""
        if self._mapping is not None:
            await asyncio.wait([self._mapping])
        if self._map is not None or self._mapping is not None:
            if self._map is not None:
                self._map.close()
            self._map = self._mapping = None
            self.extents.is_mapped = False
            await self._threads.soon(drop_map, self.path)

    def close(self) -> None:
        self._file.close()
        if self._map is not None:
            self._map.close()


@dataclass(frozen=True, slots=True)
class Opened:
    """A part's file, what an earlier process left in it, and the map if that has holes. `last` is the last byte before
    its first hole.
    """

    file: io.FileIO
    kept: Extents
    map: io.FileIO | None
    last: bytes = b""

    def close(self) -> None:
        self.file.close()
        if self.map is not None:
            self.map.close()


@dataclass(frozen=True, slots=True)
class Note:
    """What a write, once it has returned, puts into the map: `values` from byte `first` on."""

    descriptor: int
    first: int
    values: bytes


def _open(files: Filesystem, path: Path) -> Opened:
    descriptor = files.open(path, os.O_RDWR | os.O_CREAT)
    file = io.FileIO(descriptor, "r+b")
    try:
        length = os.fstat(descriptor).st_size
        kept = read_map(path, length)
        if kept is None:
            return Opened(file, Extents(length), None, os.pread(descriptor, 1, max(0, length - 1)))
        if kept.stop > kept.frontier:
            return Opened(file, kept, _map_file(path, kept))
        file.truncate(kept.frontier)
        drop_map(path)
        return Opened(file, kept, None, os.pread(descriptor, 1, max(0, kept.frontier - 1)))
    except BaseException:
        file.close()
        raise


def _map_file(path: Path, kept: Extents) -> io.FileIO:
    return io.FileIO(open_map(path, kept), "r+b")


def _truncate(descriptor: int, length: int) -> None:
    with io.FileIO(descriptor, "r+b") as file:
        file.truncate(length)


def _write(files: Filesystem, descriptor: int, chunks: Sequence[Buffer], offset: int, note: Note | None) -> None:
    try:
        for start in range(0, len(chunks), IOV_MAX):
            offset += _write_all(files, descriptor, chunks[start : start + IOV_MAX], offset)
        if note is not None:
            os.pwrite(note.descriptor, note.values, note.first)
    finally:
        os.close(descriptor)
        if note is not None:
            os.close(note.descriptor)


def _write_all(files: Filesystem, descriptor: int, chunks: Sequence[Buffer], offset: int) -> int:
    """pwritev, and after a short write (a disk nearly full) the rest, so that the next call tells the errno."""
    wanted = sum(map(len, chunks))
    written = files.pwritev(descriptor, chunks, offset)
    if written < wanted:
        rest = memoryview(b"".join(chunks))
        while written < wanted:
            written += files.pwritev(descriptor, [rest[written:]], offset + written)
    return wanted
