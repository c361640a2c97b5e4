"""Counts what really stands under the cache directory, in blocks, and brings the ledger to it.

Runs beside everything else: a folder is counted in a disk thread while others change it, and a count that a change
overtook is thrown away and made again. What no change tells of (the databases, a folder's own growth, a person's hand)
is seen here alone.
"""

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.ledger import Ledger
from proxy.oci import HEX_LENGTH
from proxy.store.blocks import SECTOR, blocks_of
from proxy.store.copies import LOG_BYTES
from proxy.store.directory import KEPT_PARTS, Directory
from proxy.store.filesystem import entries
from proxy.store.index import FILE as INDEX
from proxy.store.records import FILE as RECORDS
from proxy.store.threads import Threads

TRIES: Final = 4  # counts of one folder before it is left for the next census: somebody changes it all the time


@dataclass(frozen=True, slots=True)
class Room:
    """The file system that the cache stands on, in bytes: its size, what is in use, and what is free for us."""

    total: int
    used: int
    free: int


class Census:
    """Counts into one ledger. `running` names the parts that transfers fill now, without a suffix: they are claimed.
    `passing` are the files on their way to a name that somebody writes now.
    """

    def __init__(
        self,
        directory: Directory,
        threads: Threads,
        ledger: Ledger,
        running: Callable[[], Collection[str]],
        passing: Collection[str],
    ) -> None:
        self._directory = directory
        self._threads = threads
        self._ledger = ledger
        self._running = running
        self._written = passing
        self._passing: set[str] = set()  # files on their way to a name at the last count
        self.left_over: set[str] = set()  # those that have been on their way for two counts: nobody moves them any more

    async def look(self) -> Room:
        """The quick part: what the databases take, and the room on the file system. OSError: the disk refuses."""
        room, self._ledger.beside, self._ledger.ahead = await self._threads.disk(_look, self._directory.root)
        return room

    async def take(self) -> None:
        """Count everything. OSError: the disk refuses; what was counted by then is booked."""
        await self.look()
        await self._count_parts()
        for algorithm in HEX_LENGTH:
            folder = self._directory.blobs / algorithm
            found = await self._threads.disk(_folders_in, folder)
            gone = {name for name in self._ledger.folders if name.startswith(f"{algorithm}/")} - set(found)
            for name in (*found, *sorted(gone)):
                await self._count(name)
        self._ledger.known = True

    async def _count(self, name: str) -> None:
        for _ in range(TRIES):
            at = self._ledger.folder(name).changes
            files, own = await self._threads.disk(_count_folder, self._directory.blobs / name)
            if self._ledger.count(name, at, files, own):
                return

    async def _count_parts(self) -> None:
        found = await self._threads.disk(_files_in, self._directory.parts)
        running = self._running()
        # A manifest on its way to its name is no part: it is there for a moment, and then in its folder.
        kept = {name: taken for name, taken in found.items() if Path(name).suffix in KEPT_PARTS}
        self.left_over = (self._passing & set(found)).difference(self._written)
        self._passing = set(found) - set(kept)
        self._ledger.keep_parts({name: taken for name, taken in kept.items() if Path(name).stem not in running})


def _look(root: Path) -> tuple[Room, int, int]:
    """(the room, what stands beside the blobs, what the databases will take more for a while)."""
    system = os.statvfs(root)
    unit = system.f_frsize
    room = Room(system.f_blocks * unit, (system.f_blocks - system.f_bfree) * unit, system.f_bavail * unit)
    beside = blocks_of(root) + sum(_beside(entry) for entry in entries(root))
    return room, beside, _ahead(root)


def _ahead(root: Path) -> int:
    """What comes any time: a backup of the records while the old one stands, and the databases' logs grown full."""
    logs = sum(max(0, LOG_BYTES - blocks_of(root / f"{name}-wal")) for name in (INDEX, RECORDS))
    return blocks_of(root / RECORDS) + logs


def _beside(entry: "os.DirEntry[str]") -> int:
    """What one name in the directory takes: `blobs` and `parts` without what is counted in them by itself."""
    path = Path(entry.path)
    taken = blocks_of(path)
    if entry.name == "blobs":
        return taken + sum(blocks_of(Path(inner.path)) for inner in entries(path))
    if entry.name == "parts" or not entry.is_dir(follow_symlinks=False):
        return taken
    return taken + sum(_beside(inner) for inner in entries(path))


def _folders_in(folder: Path) -> list[str]:
    return [f"{folder.name}/{entry.name}" for entry in entries(folder) if entry.is_dir(follow_symlinks=False)]


def _count_folder(folder: Path) -> tuple[int, int]:
    """(what its files take, what it takes itself)."""
    return sum(_files_in(folder).values()), blocks_of(folder)


def _files_in(folder: Path) -> dict[str, int]:
    """What each file of a folder takes."""
    found: dict[str, int] = {}
    for entry in entries(folder):
        try:
            found[entry.name] = entry.stat(follow_symlinks=False).st_blocks * SECTOR
        except FileNotFoundError:  # adopted or deleted since the folder was read
            continue
    return found
