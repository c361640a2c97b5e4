"""Which stored files may be trusted without hashing them again: their seals, as of the last check of their hash.

A seal is a file's size, time of change and inode when its bytes were known to hash to its name. A file that looks
otherwise, or has no seal, is suspect. Seals are written at sync points only, every half minute and at stop: after an
unclean stop whatever the last run wrote since then has none, and after a read error it is dropped at once.
They stand in the index: losing them costs one hash of each blob, never content.
"""

import json
import os
import sqlite3
import stat
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cachetools import LRUCache

from proxy.errors import DigestInvalid
from proxy.oci import Digest
from proxy.store.database import Database

IN_MEMORY: Final = 65_536
NOTED_MAX: Final = 10_000  # seals that wait for a sync point before one is made
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS seals (digest TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL, checked_at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS oldest_checks ON seals (checked_at);
"""
SAVE: Final = "INSERT OR REPLACE INTO seals VALUES (?, ?, ?, ?, ?)"
SEALED: Final = "SELECT digest FROM seals WHERE digest IN (SELECT value FROM json_each(?))"
OLDEST: Final = "SELECT digest, size, checked_at FROM seals ORDER BY checked_at LIMIT ?"


@dataclass(frozen=True, slots=True)
class Seal:
    """A file as it stood when its bytes were last known to be right. `inode` as SQLite keeps it: signed."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> "Seal":
        inode = found.st_ino
        return cls(found.st_size, found.st_mtime_ns, inode - (1 << 64) if inode >= 1 << 63 else inode)


@dataclass(frozen=True, slots=True)
class Due:
    """A sealed blob and when it was last checked (Unix seconds)."""

    digest: Digest
    size: int
    checked_at: float


class Seals:
    """The seals of one store. Faults of the index count as "no seal": the blob is then hashed."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._known: LRUCache[Digest, Seal] = LRUCache(IN_MEMORY)
        self._noted: dict[Digest, tuple[Seal, float] | None] = {}  # None: dropped

    async def trusts(self, digest: Digest, seal: Seal) -> bool:
        """Whether the file that looks like this is the one that was checked."""
        known = self._known.get(digest) or await self._find(digest)
        return known == seal

    def recall(self, digest: Digest) -> Seal | None:
        """A blob's seal if it is in memory; None says nothing."""
        return self._known.get(digest)

    async def _find(self, digest: Digest) -> Seal | None:
        if digest in self._noted:
            noted = self._noted[digest]
            return None if noted is None else noted[0]
        query = "SELECT size, mtime_ns, inode FROM seals WHERE digest=?"
        try:
            rows = await self._database.read(query, (str(digest),))
        except OSError:
            return None
        if not rows or digest in self._noted:  # noted or dropped meanwhile: the next look tells
            return None
        found = self._known[digest] = Seal(*rows[0])
        return found

    async def note(self, digest: Digest, seal: Seal) -> None:
        """The file that looks like this was checked just now."""
        self._known[digest] = seal
        self._noted[digest] = (seal, self._clock())
        if len(self._noted) > NOTED_MAX:
            await self.sync()

    async def drop(self, digest: Digest) -> None:
        """The blob is deleted: its seal goes with the next sync point."""
        self._forget(digest)

    async def break_seal(self, digest: Digest) -> None:
        """Trust the blob no more, from now on and after a crash. OSError: the index refuses."""
        self._forget(digest)
        await self._database.write(lambda connection: _save(connection, {digest: None}))

    def _forget(self, digest: Digest) -> None:
        self._known.pop(digest, None)
        self._noted[digest] = None

    async def sync(self) -> None:
        """A sync point: what was adopted and checked until now is trusted after a crash too. OSError: not now."""
        noted, self._noted = self._noted, {}
        if not noted:
            return
        try:
            await self._database.write(lambda connection: _save(connection, noted))
        except OSError:
            self._noted = noted | self._noted
            raise

    async def unsealed(self, digests: Sequence[Digest]) -> list[Digest]:
        """Those of `digests` that have no seal. OSError: the index refuses."""
        asked = json.dumps([str(digest) for digest in digests])
        sealed = {text for (text,) in await self._database.read(SEALED, (asked,))}
        return [digest for digest in digests if not self._is_sealed(digest, sealed)]

    def _is_sealed(self, digest: Digest, sealed: Collection[str]) -> bool:
        if digest in self._noted:
            return self._noted[digest] is not None
        return str(digest) in sealed

    async def total_bytes(self) -> int:
        """The size of everything sealed, as of the last sync point."""
        [(total,)] = await self._database.read("SELECT coalesce(sum(size), 0) FROM seals")
        return int(total)

    async def oldest(self, count: int) -> Sequence[Due]:
        """The blobs that were checked longest ago."""
        found: list[Due] = []
        for digest, size, checked_at in await self._database.read(OLDEST, (count,)):
            try:
                found.append(Due(Digest.parse(digest), size, checked_at))
            except DigestInvalid as cause:
                raise OSError(f"a seal's digest is damaged: {cause}") from cause
        return found


def seal_of(path: Path) -> Seal | None:
    """How the file at a blob's path looks; None if there is none."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Seal.of(found) if stat.S_ISREG(found.st_mode) else None


def _save(connection: sqlite3.Connection, noted: dict[Digest, tuple[Seal, float] | None]) -> None:
    for digest, found in noted.items():
        if found is None:
            connection.execute("DELETE FROM seals WHERE digest=?", (str(digest),))
        else:
            seal, checked_at = found
            connection.execute(SAVE, (str(digest), seal.size, seal.mtime_ns, seal.inode, checked_at))
