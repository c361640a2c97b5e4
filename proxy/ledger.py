"""What the cache directory takes on its disk, and what running transfers may still take: one book of blocks.

Plain numbers on the event loop; knows no paths and no disk. A block is what the file system has given away
(`st_blocks`), not what a file is long. Whoever changes a folder says so around the change, so that a count of that
folder made meanwhile by the census is thrown away instead of booked over newer news.
Invariant: `committed` is never less than what stands under the directory, but for what no change has told yet.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

BLOCK: Final = 4096  # what a file system of our time gives at least
SHARE_OF_MAP: Final = 4096  # one byte in so many goes to the file system's own map of a large file


def blocks_for(size: int) -> int:
    """At most so many bytes of disk for a file of `size` bytes: its last block whole, and the map of its extents."""
    return -(-size // BLOCK) * BLOCK + 2 * BLOCK + size // SHARE_OF_MAP


@dataclass(slots=True)
class Folder:
    """One folder: the blocks of its files and of itself. `changes` counts, `changing` is how many run now."""

    files: int = 0
    own: int = 0
    changes: int = 0
    changing: int = 0
    counted: bool = False

    @property
    def bytes(self) -> int:
        return self.files + self.own


class Change:
    """One change of a folder, from before it begins until `end`; what it did is told before that."""

    __slots__ = ("_files", "_folder", "_ledger", "_own")

    def __init__(self, ledger: "Ledger", folder: Folder) -> None:
        self._ledger, self._folder = ledger, folder
        self._files, self._own = 0, folder.own
        folder.changing += 1

    def took(self, files: int, own: int) -> None:
        """The folder's files take `files` bytes more (or less), and the folder itself `own` now."""
        self._files, self._own = files, own

    def failed(self) -> None:
        """It may have changed anything: the folder is counted again."""
        self._folder.counted = False

    def end(self) -> None:
        self._folder.changing -= 1
        self._folder.changes += 1
        self._ledger.book(self._folder, self._folder.files + self._files, self._own)


class Claim:
    """Room promised to one running transfer, until `release`. `written` is how much of it is on the disk already."""

    __slots__ = ("_ledger", "promised", "written")

    def __init__(self, ledger: "Ledger", promised: int) -> None:
        self._ledger = ledger
        self.promised = promised
        self.written = 0

    @property
    def bytes(self) -> int:
        return max(self.promised, self.written)

    def release(self) -> None:
        """The transfer is over: what it left on the disk is booked elsewhere by now. Once more is nothing."""
        self._ledger.claims.discard(self)


@dataclass(slots=True)
class Ledger:
    """The book. `known` is False until the first census has counted every folder."""

    known: bool = False
    folders: dict[str, Folder] = field(default_factory=dict)
    blobs: int = 0  # what all folders take together
    # Parts that no transfer fills now, by file name: an earlier one left them for the next.
    kept_parts: dict[str, int] = field(default_factory=dict)
    claims: set[Claim] = field(default_factory=set)
    beside: int = 0  # databases, locks, whatever else stands in the directory
    ahead: int = 0  # what housekeeping will take for a while: the next backup of the records
    lingering: int = 0  # deleted, and still open: free once the last reader closes

    @property
    def taken(self) -> int:
        """Bytes of disk in use now."""
        return self._settled + sum(claim.written for claim in self.claims)

    @property
    def committed(self) -> int:
        """Bytes of disk in use or promised."""
        return self._settled + self.ahead + sum(claim.bytes for claim in self.claims)

    @property
    def reserved(self) -> int:
        """Bytes of disk promised to running transfers and not written yet."""
        return sum(claim.bytes - claim.written for claim in self.claims)

    @property
    def _settled(self) -> int:
        return self.blobs + self.parts + self.beside + self.lingering

    @property
    def parts(self) -> int:
        """Bytes of disk that transfers left behind, broken off."""
        return sum(self.kept_parts.values())

    def claim(self, size: int) -> Claim:
        """Promise `size` bytes of disk; whether they are to be had is the caller's to know."""
        claim = Claim(self, size)
        self.claims.add(claim)
        return claim

    def folder(self, name: str) -> Folder:
        return self.folders.setdefault(name, Folder())

    def change(self, name: str) -> Change:
        """A change of a folder begins."""
        return Change(self, self.folder(name))

    @contextmanager
    def changing(self, name: str) -> Iterator[Change]:
        """Around one change of a folder that nobody cancels."""
        change = self.change(name)
        try:
            yield change
        except BaseException:
            change.failed()
            raise
        finally:
            change.end()

    def count(self, name: str, at: int, files: int, own: int) -> bool:
        """Book what the census found in a folder, unless it changed since `at` (its `changes` before the count)."""
        folder = self.folder(name)
        if folder.changing or folder.changes != at:
            return False
        self.book(folder, files, own)
        folder.counted = True
        return True

    def book(self, folder: Folder, files: int, own: int) -> None:
        """What a folder takes is so much now."""
        self.blobs += files + own - folder.bytes
        folder.files, folder.own = files, own

    def keep_parts(self, found: Mapping[str, int]) -> None:
        """Book the parts that the census found and no transfer fills."""
        self.kept_parts = dict(found)
