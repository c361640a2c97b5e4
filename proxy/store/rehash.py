"""Hashes a stored file again, slice by slice, without pushing what clients read out of the page cache. Blocks.

What is in the cache is read from there and left there (RWF_NOWAIT, preadv2(2)); what had to come from the disk is let
go of again. A file system that does not know the flag is read plainly.
"""

import errno
import os
from typing import Final, Protocol

BLOCK: Final = 1 << 20
NO_PROBE: Final = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


class Hasher(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


class Rehash:
    """One file being hashed; `offset` is how far it has come. `gentle`: leave the page cache as it is found.

    Every `advance` gets a descriptor of its own and closes it: a caller who is cancelled leaves the thread at work.
    """

    def __init__(self, hasher: Hasher, *, gentle: bool) -> None:
        self.offset = 0
        self._hasher = hasher
        self._gentle = gentle
        self._probes = gentle
        self._block = memoryview(bytearray(BLOCK))

    def advance(self, descriptor: int, length: int) -> bool:
        """Hash up to `length` bytes more; False at the file's end. OSError: the disk failed."""
        try:
            if self._gentle:
                # Read-ahead would put pages into the cache that nobody asked for, and that would then look wanted.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            end = self.offset + length
            while self.offset < end:
                count = self._read(descriptor, min(BLOCK, end - self.offset))
                if not count:
                    return False
                self._hasher.update(self._block[:count])
                self.offset += count
        finally:
            os.close(descriptor)
        return True

    def _read(self, descriptor: int, length: int) -> int:
        block = self._block[:length]
        if self._probes:
            try:
                return os.preadv(descriptor, [block], self.offset, os.RWF_NOWAIT)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno not in NO_PROBE:
                    raise
                self._probes = False
        count = os.preadv(descriptor, [block], self.offset)
        if self._gentle:
            os.posix_fadvise(descriptor, self.offset, count, os.POSIX_FADV_DONTNEED)
        return count

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()
