"""What an earlier process left of a blob's part, for clients that it gave bytes of: are those what is verified now?

A client that goes on after the process that served it has died holds bytes that nobody hashed. They are as good as the
blob's own if they stand in the file that is verified, and were not written anew in between.
"""

import io
import os
from typing import Final

from cachetools import LRUCache

from proxy.downloads.extents import Extents
from proxy.oci import Digest, Span

KNOWN_MAX: Final = 65_536  # parts that one process may open before it stops telling


class Left:
    """The bytes of a part as they were found, those that still stand; and the last one of its unbroken beginning,
    which is asked for anew to show that the upstream has the blob: it may come as it was.
    """

    __slots__ = ("_at", "_extents", "_last")

    def __init__(self, extents: Extents, last: bytes) -> None:
        self._extents = extents.copy()
        self._at = extents.frontier - 1
        self._last = last

    def cut(self, length: int) -> None:
        """From `length` on everything is written anew; the very last byte perhaps as it was."""
        if length < max(self._at, self._extents.stop - 1):
            self._extents.keep(length)
            self._last = b""

    def has(self, taken: Span, file: io.FileIO) -> bool:
        """Whether all of `taken` stands. Blocks for one byte; asked when `file` has bytes beyond it."""
        if self._extents.end_of(taken.start) < taken.stop:
            return False
        if not self._last or not taken.start <= self._at < taken.stop:
            return True
        return os.pread(file.fileno(), 1, self._at) == self._last


class Finds:
    """What one process found of each blob when it opened its part first."""

    def __init__(self) -> None:
        self._of: LRUCache[Digest, Left] = LRUCache(KNOWN_MAX)

    def first(self, digest: Digest, left: Left) -> Left:
        """What was found at the first opening: `left` if this is it."""
        return self._of.setdefault(digest, left)

    def stand(self, digest: Digest, file: io.FileIO, taken: Span) -> bool:
        """Whether bytes that an earlier process gave from this very file are those that this one verifies."""
        if not taken.length:
            return True
        left = self._of.get(digest)
        if left is None:  # it was whole before this process began
            return len(self._of) < KNOWN_MAX
        return left.has(taken, file)
