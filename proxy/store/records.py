"""Tags and links in records.sqlite: what cannot be guessed from the bytes of the store, so it is durable on its own.

A `save_*` returns after the disk has it (synchronous=FULL). What was read or written lately is answered from memory,
without a thread. Invariant: memory holds only what the last commit says, or nothing.
"""

import errno
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Generic, TypeVar

from cachetools import LRUCache

from proxy.errors import DigestInvalid
from proxy.freshness import TagRecord
from proxy.log import logger
from proxy.oci import Descriptor, Digest
from proxy.rules import Place
from proxy.store.base import Link
from proxy.store.database import Database, DatabaseBroken, Row, check, copy_whole, set_aside, sqlite_faults
from proxy.store.filesystem import Filesystem, size_of_file

Value = TypeVar("Value")
Key = TypeVar("Key")
Name = TypeVar("Name")
log = logger("records")

FILE: Final = "records.sqlite"
BACKUP: Final = "records.backup.sqlite"
IN_MEMORY: Final = 32_768  # of each kind, about 20 MB
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tags (
    scope TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL,
    digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
    first_seen REAL NOT NULL, last_checked REAL NOT NULL, origin TEXT NOT NULL,
    PRIMARY KEY (scope, repository, tag)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS links (
    scope TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL,
    media_type TEXT, size INTEGER NOT NULL,
    PRIMARY KEY (scope, repository, digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusals (scope TEXT PRIMARY KEY, since REAL NOT NULL) WITHOUT ROWID;
"""
TAG: Final = "SELECT tag, digest, media_type, size, first_seen, last_checked, origin FROM tags"
LINK: Final = "SELECT digest, media_type, size FROM links"
SAVE_TAG: Final = "INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
# The first verified media type stays: one digest is always answered with one Content-Type. A size of 0 says nothing.
SAVE_LINK: Final = """
INSERT INTO links VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE
SET media_type = coalesce(links.media_type, excluded.media_type),
    size = iif(excluded.size = 0, links.size, excluded.size)
RETURNING media_type, size
"""


class _Recent(Generic[Key, Value]):
    """What the last commit says of a key, for the keys used lately."""

    def __init__(self) -> None:
        self.values: LRUCache[Key, Value] = LRUCache(IN_MEMORY)
        self.changes = 0

    def change(self, values: Iterable[tuple[Key, Value]], gone: Iterable[Key] = ()) -> None:
        """Take over a commit."""
        self.changes += 1
        self.values.update(values)
        for key in gone:
            self.values.pop(key, None)


class SqliteRecords:
    """Records on disk, one server's own. Open with `SqliteRecords.open` in a disk thread."""

    def __init__(self, database: Database, files: Filesystem) -> None:
        self._database = database
        self._files = files
        self._tags: _Recent[tuple[Place, str], TagRecord] = _Recent()
        self._links: _Recent[tuple[Place, Digest], Link] = _Recent()
        self._backed_up = -1

    @classmethod
    def open(cls, folder: Path, files: Filesystem) -> "SqliteRecords":
        """Open or create; a missing or broken file is replaced by its backup, and the log says so. Blocks."""
        path, backup = folder / FILE, folder / BACKUP
        why = "missing"
        if size_of_file(path):
            try:
                return cls(Database(path, SCHEMA, "FULL", files), files)
            except DatabaseBroken as error:
                why, aside = "broken", set_aside(path, files)
                log.warning("records are broken and set aside", file=aside.name, error=str(error))
        if backup.exists():
            _restore(backup, path, files, why)
        return cls(Database(path, SCHEMA, "FULL", files), files)

    @property
    def changes(self) -> int:
        return self._tags.changes + self._links.changes

    async def tag(self, place: Place, tag: str) -> TagRecord | None:
        if (known := self._tags.values.get((place, tag))) is not None:
            return known
        changes = self._tags.changes
        rows = await self._database.read(f"{TAG} WHERE scope=? AND repository=? AND tag=?", (*_of(place), tag))
        if not rows:
            return None
        record = _tag_record(rows[0])
        if changes == self._tags.changes and not self._database.pending:
            self._tags.values[place, tag] = record
        return record

    async def save_tag(self, place: Place, tag: str, record: TagRecord) -> None:
        found = record.descriptor
        row = (str(found.digest), found.media_type, found.size, record.first_seen, record.last_checked, record.origin)
        await self._database.write(
            lambda connection: connection.execute(SAVE_TAG, (*_of(place), tag, *row)),
            lambda _: self._tags.change([((place, tag), record)]),
        )

    async def drop_tag(self, place: Place, tag: str) -> None:
        await self._drop(self._tags, "DELETE FROM tags WHERE scope=? AND repository=? AND tag=?", place, [tag])

    async def tags(self, place: Place) -> dict[str, TagRecord]:
        rows = await self._database.read(f"{TAG} WHERE scope=? AND repository=?", _of(place))
        return {row[0]: _tag_record(row) for row in rows}

    async def link(self, place: Place, digest: Digest) -> Link | None:
        if (known := self._links.values.get((place, digest))) is not None:
            return known
        changes = self._links.changes
        query = f"{LINK} WHERE scope=? AND repository=? AND digest=?"
        rows = await self._database.read(query, (*_of(place), str(digest)))
        if not rows:
            return None
        link = _link(place, rows[0])
        if changes == self._links.changes and not self._database.pending:
            self._links.values[place, digest] = link
        return link

    def recall_link(self, place: Place, digest: Digest) -> Link | None:
        return self._links.values.get((place, digest))

    async def save_links(self, links: Sequence[Link]) -> None:
        news = [link for link in links if not self._says_already(link)]
        if news:
            await self._database.write(
                lambda connection: [_save_link(connection, link) for link in news],
                lambda saved: self._links.change(((link.place, link.digest), link) for link in saved),
            )

    def _says_already(self, link: Link) -> bool:
        known = self._links.values.get((link.place, link.digest))
        if known is None or link.size not in (0, known.size):
            return False
        return link.media_type is None or known.media_type is not None

    async def drop_links(self, place: Place, digests: Sequence[Digest]) -> None:
        await self._drop(self._links, "DELETE FROM links WHERE scope=? AND repository=? AND digest=?", place, digests)

    async def _drop(
        self, recent: _Recent[tuple[Place, Name], Value], query: str, place: Place, names: Sequence[Name]
    ) -> None:
        gone = [(place, name) for name in names]
        rows = [(*_of(place), str(name)) for name in names]
        # Forgotten at once, and not learned again while the drop is pending: a save that follows must be written.
        recent.change((), gone)
        await self._database.write(
            lambda connection: connection.executemany(query, rows), lambda _: recent.change((), gone)
        )

    async def refusals(self) -> dict[str, float]:
        return dict(await self._database.read("SELECT scope, since FROM refusals"))

    async def save_refusal(self, scope: str, since: float) -> None:
        query = "INSERT OR REPLACE INTO refusals VALUES (?, ?)"
        await self._database.write(lambda connection: connection.execute(query, (scope, since)))

    async def drop_refusal(self, scope: str) -> None:
        query = "DELETE FROM refusals WHERE scope=?"
        await self._database.write(lambda connection: connection.execute(query, (scope,)))

    async def places(self) -> Sequence[Place]:
        query = "SELECT scope, repository FROM tags UNION SELECT scope, repository FROM links"
        return [Place(scope, repository) for scope, repository in await self._database.read(query)]

    async def links(self, place: Place) -> Sequence[Link]:
        rows = await self._database.read(f"{LINK} WHERE scope=? AND repository=?", _of(place))
        return [_link(place, row) for row in rows]

    async def backup(self) -> None:
        """Bring the copy beside the records up to date, atomically; nothing if nothing changed since the last one."""
        self._backed_up = await self._database.alone(self._copy)

    def _copy(self, connection: sqlite3.Connection) -> int:
        if connection.total_changes != self._backed_up:
            copy_whole(connection, self._database.path.with_name(BACKUP), self._files)
        return connection.total_changes

    async def close(self) -> None:
        """Back up, then end; a disk that refuses the backup does not keep the server from ending."""
        try:
            await self.backup()
        except OSError as error:
            log.warning("records were not backed up at stop", error=str(error))
        finally:
            await self._database.close()


def _restore(backup: Path, path: Path, files: Filesystem, why: str) -> None:
    """Copy the backup into the place of the records. One that is broken too is set aside: better none than no start."""
    saved_at = datetime.fromtimestamp(backup.stat().st_mtime, UTC).isoformat(timespec="seconds")
    try:
        with sqlite_faults(backup.name):
            source = sqlite3.connect(f"{backup.absolute().as_uri()}?mode=ro", uri=True)
            try:
                check(source, backup)
                copy_whole(source, path, files)
            finally:
                source.close()
    except DatabaseBroken as error:
        aside = set_aside(backup, files)
        log.warning("the backup of the records is broken too; they start empty", file=aside.name, error=str(error))
        return
    log.warning("records restored from their backup; what came after it is lost", why=why, backup_of=saved_at)


def _of(place: Place) -> tuple[str, str]:
    return place.scope, place.repository


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except DigestInvalid as cause:  # the client is not at fault: a row is damaged
        raise OSError(errno.EIO, f"{FILE}: {cause}") from cause


def _tag_record(row: Row) -> TagRecord:
    _, digest, media_type, size, first_seen, last_checked, origin = row
    descriptor = Descriptor(media_type, _digest(digest), size)
    return TagRecord(descriptor=descriptor, first_seen=first_seen, last_checked=last_checked, origin=origin)


def _link(place: Place, row: Row) -> Link:
    digest, media_type, size = row
    return Link(place, _digest(digest), media_type, size)


def _save_link(connection: sqlite3.Connection, link: Link) -> Link:
    values = (*_of(link.place), str(link.digest), link.media_type, link.size)
    [(media_type, size)] = connection.execute(SAVE_LINK, values).fetchall()
    return Link(link.place, link.digest, media_type, size)
