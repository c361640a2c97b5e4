"""The growing file of one transfer: append-only, hashed as it grows, readable by anyone at any offset below `frontier`.

Knows a path and a digest; nothing of upstreams, readers or the store. Because a part is only ever appended to, its
length is its progress: after kill -9 the page cache holds every byte that a write returned for, so a new process takes
the file's length as its frontier. A hash state cannot be saved, so a kept prefix is hashed again from the file, behind
the fetch. (After a reboot nothing of this holds: the store drops the parts of another boot.)
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from proxy.oci import Digest
from proxy.store.threads import Threads

CATCH_UP: Final = 4 << 20  # bytes hashed per job behind the frontier: bounds how long a hash thread is held
IOV_MAX: Final = 1024  # buffers one pwritev takes on Linux


def part_path(folder: Path, digest: Digest) -> Path:
    return folder / f"{digest.algorithm}-{digest.encoded}.part"


class Part:
    """One part file, open. `frontier` is the count of readable bytes, `hashed` how many of them the hash has seen.

    Every job gets a descriptor of its own: a cancelled caller may close the part while a thread still works.
    """

    def __init__(self, path: Path, digest: Digest, threads: Threads, file: io.FileIO, kept: int) -> None:
        self.path = path
        self.frontier = kept
        self.hashed = 0
        self._digest = digest
        self._threads = threads
        self._file = file
        self._hash = digest.hasher()

    @classmethod
    async def open(cls, folder: Path, digest: Digest, threads: Threads) -> "Part":
        """Open the part of `digest`, with what an earlier process left of it. OSError: the disk refuses."""
        path = part_path(folder, digest)
        file, kept = await threads.disk(_open, path, unclaimed=lambda opened: opened[0].close())
        return cls(path, digest, threads, file, kept)

    def share(self) -> io.FileIO:
        """A file of its own for reading, the caller's to close."""
        return io.FileIO(os.dup(self._file.fileno()), "rb")

    async def append(self, chunks: Sequence[bytes]) -> None:
        """Write `chunks` at the frontier, and hash them in the same job when the hash stands there too.

        One append at a time. OSError: the disk refuses; the frontier stays.
        """
        offset, follow = self.frontier, self.hashed == self.frontier
        written = await self._threads.disk(self._write, os.dup(self._file.fileno()), chunks, offset, follow)
        self.frontier = offset + written
        if follow:
            self.hashed = self.frontier

    def _write(self, descriptor: int, chunks: Sequence[bytes], offset: int, follow: bool) -> int:
        total = 0
        with io.FileIO(descriptor, "r+b") as file:
            for start in range(0, len(chunks), IOV_MAX):
                total += _write_all(file.fileno(), chunks[start : start + IOV_MAX], offset + total)
        if follow:
            for chunk in chunks:
                self._hash.update(chunk)
        return total

    @property
    def behind(self) -> bool:
        return self.hashed < self.frontier

    async def catch_up(self) -> None:
        """Hash what the hash has not seen yet, until it stands at the frontier or the part is closed. One at a time."""
        while self.behind and not self._file.closed:
            length = min(CATCH_UP, self.frontier - self.hashed)
            await self._threads.hash(self._hash_again, os.dup(self._file.fileno()), self.hashed, length)
            self.hashed += length

    def _hash_again(self, descriptor: int, offset: int, length: int) -> None:
        end = offset + length
        with io.FileIO(descriptor, "rb") as file:
            while offset < end:
                data = os.pread(file.fileno(), min(1 << 20, end - offset), offset)
                if not data:
                    raise OSError(f"the part {self.path.name} is shorter than what was written to it")
                self._hash.update(data)
                offset += len(data)

    def matches(self) -> bool:
        """Whether all bytes hash to the digest; the hash must have caught up."""
        return not self.behind and self._hash.hexdigest() == self._digest.encoded

    async def rewind(self, length: int) -> None:
        """Keep only the first `length` bytes."""
        await self._threads.disk(_truncate, os.dup(self._file.fileno()), length)
        self.frontier, self.hashed, self._hash = length, 0, self._digest.hasher()

    async def discard(self) -> None:
        """Delete the file; whoever shares it can still read what is there."""
        await self._threads.disk(_unlink, self.path)

    def close(self) -> None:
        self._file.close()


def _open(path: Path) -> tuple[io.FileIO, int]:
    # O_NOFOLLOW: a link planted in the parts folder must not lead a write elsewhere.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    file = io.FileIO(descriptor, "r+b")
    return file, os.fstat(descriptor).st_size


def _truncate(descriptor: int, length: int) -> None:
    with io.FileIO(descriptor, "r+b") as file:
        file.truncate(length)


def _write_all(descriptor: int, chunks: Sequence[bytes], offset: int) -> int:
    """pwritev, and after a short write (a disk nearly full) the rest, so that the next call tells the errno."""
    wanted = sum(map(len, chunks))
    written = os.pwritev(descriptor, chunks, offset)
    if written < wanted:
        rest = memoryview(b"".join(chunks))
        while written < wanted:
            written += os.pwrite(descriptor, rest[written:], offset + written)
    return wanted


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
