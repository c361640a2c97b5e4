"""Sees that the cache directory still stands where it stood, and makes it stand again.

A directory may be deleted, or another file system mounted over it or taken away, under a running server. Clients are
served from the upstream meanwhile; here what stands at the path now is owned and laid out, and records and index are
brought along, or taken as they are if they stand there.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from proxy.errors import StoreBusy, StoreRefused
from proxy.log import logger
from proxy.store.database import Database
from proxy.store.directory import FOLDERS, Directory, own_directory
from proxy.store.disk import DiskStore
from proxy.store.filesystem import Filesystem
from proxy.store.index import SqliteIndex
from proxy.store.records import SqliteRecords
from proxy.store.threads import Threads

log = logger("store")
LOOK_EVERY_S: Final = 1.0


class Standing:
    """Start `run` as a task."""

    def __init__(
        self,
        owned: Directory,
        records: SqliteRecords,
        index: SqliteIndex,
        blobs: DiskStore,
        threads: Threads,
        files: Filesystem,
        boot_id: str,
        on_replaced: Callable[[], None],
    ) -> None:
        self._owned = owned
        self._records = records
        self._index = index
        self._blobs = blobs
        self._threads = threads
        self._files = files
        self._boot_id = boot_id
        self._on_replaced = on_replaced
        self._trouble: str | None = None

    async def run(self, pause: Callable[[float], Awaitable[object]]) -> None:
        """Look, for ever."""
        while True:
            await pause(LOOK_EVERY_S)
            await self.look()

    async def look(self) -> None:
        """One look, and what it asks for. Trouble is told once, and tried again at the next look."""
        try:
            if not await self._threads.disk(stands, self._owned.root, self._owned.lock):
                await self._own_again()
            for database, move_in in (
                (self._records.database, self._records.move_in),
                (self._index.database, self._index.database.move_in),
            ):
                if not await self._threads.disk(is_open_at, database):
                    await move_in()
                    log.warning("a database was brought to its place again", file=database.path.name)
        except (StoreBusy, StoreRefused, OSError) as error:
            self._tell(str(error))
        else:
            self._tell(None)

    async def _own_again(self) -> None:
        owned = self._owned
        again = await own_directory(owned.root, self._threads, self._files, self._boot_id, ballast=owned.has_ballast)
        self._owned.take_over(again)
        self._blobs.forget_shards()
        self._on_replaced()
        log.warning("the cache directory was gone or is another one: laid out again", directory=str(self._owned.root))

    def _tell(self, trouble: str | None) -> None:
        if trouble is not None and self._trouble is None:
            log.error("the cache directory does not stand; clients are served from the upstream", error=trouble)
        elif trouble is None and self._trouble is not None:
            log.warning("the cache directory stands again")
        self._trouble = trouble


def stands(root: Path, lock: int) -> bool:
    """Whether the lock that we hold is the directory's, and every folder is there. Blocks."""
    try:
        found, held = os.lstat(root / "lock"), os.fstat(lock)
        return os.path.samestat(found, held) and all((root / name).is_dir() for name in FOLDERS)
    except FileNotFoundError:
        return False


def is_open_at(database: Database) -> bool:
    """Whether the file that is open is the one at its path. Blocks."""
    try:
        return os.lstat(database.path).st_ino == database.inode
    except FileNotFoundError:
        return False
