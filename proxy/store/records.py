"""Tags and links in records.sqlite: what cannot be guessed from the bytes of the store, so it is durable on its own.

A `save_*` returns after the disk has it (synchronous=FULL). A file that breaks is made again from its backup and the
log of changes, also in the middle of work. What was read or written lately is answered from memory, without a thread.
Invariant: memory holds only what the last commit says, or nothing.
"""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from cachetools import LRUCache

from proxy.freshness import TagRecord
from proxy.log import logger
from proxy.oci import Digest
from proxy.rules import Place
from proxy.store import rows
from proxy.store.base import Link
from proxy.store.copies import copy_whole
from proxy.store.database import Database
from proxy.store.filesystem import Filesystem
from proxy.store.restore import BACKUP, RecordsKeeper
from proxy.store.rows import parse_link, parse_tag

Value = TypeVar("Value")
Key = TypeVar("Key")
Name = TypeVar("Name")
log = logger("records")

FILE: Final = "records.sqlite"
IN_MEMORY: Final = 32_768  # of each kind, about 20 MB


class _Recent(Generic[Key, Value]):
    """What the last commit says of a key, for the keys used lately."""

    def __init__(self) -> None:
        self.values: LRUCache[Key, Value] = LRUCache(IN_MEMORY)
        self.changes = 0
        self.on_change: Callable[[], object] | None = None

    def change(self, values: Iterable[tuple[Key, Value]], gone: Iterable[Key] = ()) -> None:
        """Take over a commit."""
        self.changes += 1
        self.values.update(values)
        for key in gone:
            self.values.pop(key, None)
        if self.on_change is not None:
            self.on_change()


class SqliteRecords:
    """Records on disk, one server's own. Open with `SqliteRecords.open` in a disk thread."""

    def __init__(self, database: Database, keeper: RecordsKeeper, files: Filesystem) -> None:
        self.database = database
        self._keeper = keeper
        self._files = files
        self._tags: _Recent[tuple[Place, str], TagRecord] = _Recent()
        self._links: _Recent[tuple[Place, Digest], Link] = _Recent()
        self._backed_up = (-1, -1)

    @classmethod
    def open(cls, folder: Path, files: Filesystem) -> "SqliteRecords":
        """Open or create; a missing or broken file is made again from its backup and the log of changes. Blocks."""
        keeper = RecordsKeeper(folder, files)
        return cls(Database(folder / FILE, rows.SCHEMA, "FULL", files, keeper), keeper, files)

    @property
    def changes(self) -> int:
        return self._tags.changes + self._links.changes

    def watch(self, told: Callable[[], object]) -> None:
        self._tags.on_change = self._links.on_change = told

    async def tag(self, place: Place, tag: str) -> TagRecord | None:
        if (known := self._tags.values.get((place, tag))) is not None:
            return known
        changes = self._tags.changes
        found = await self.database.parsed(
            f"{rows.TAGS} WHERE scope=? AND repository=? AND tag=?", (*_of(place), tag), parse_tag
        )
        if not found:
            return None
        [(_, _, record)] = found
        if changes == self._tags.changes and not self.database.pending:
            self._tags.values[place, tag] = record
        return record

    async def save_tag(self, place: Place, tag: str, record: TagRecord) -> None:
        await self._change(rows.tag_saved(place, tag, record), lambda _: self._tags.change([((place, tag), record)]))

    async def drop_tag(self, place: Place, tag: str) -> None:
        await self._drop(self._tags, "untag", place, [tag])

    async def tags(self, place: Place) -> dict[str, TagRecord]:
        found = await self.database.parsed(f"{rows.TAGS} WHERE scope=? AND repository=?", _of(place), parse_tag)
        return {tag: record for _, tag, record in found}

    async def link(self, place: Place, digest: Digest) -> Link | None:
        if (known := self._links.values.get((place, digest))) is not None:
            return known
        changes = self._links.changes
        found = await self.database.parsed(rows.ONE_LINK, (*_of(place), str(digest)), parse_link)
        if not found:
            return None
        if changes == self._links.changes and not self.database.pending:
            self._links.values[place, digest] = found[0]
        return found[0]

    def recall_link(self, place: Place, digest: Digest) -> Link | None:
        return self._links.values.get((place, digest))

    async def save_links(self, links: Sequence[Link]) -> None:
        news = [link for link in links if not self._says_already(link)]
        if news:
            await self._change(
                rows.links_saved(news),
                lambda saved: self._links.change(((link.place, link.digest), link) for link in saved),
            )

    def _says_already(self, link: Link) -> bool:
        known = self._links.values.get((link.place, link.digest))
        if known is None or link.size not in (0, known.size):
            return False
        return link.media_type is None or known.media_type is not None

    async def drop_links(self, place: Place, digests: Sequence[Digest]) -> None:
        await self._drop(self._links, "unlink", place, digests)

    async def _drop(
        self, recent: _Recent[tuple[Place, Name], Value], kind: str, place: Place, names: Sequence[Name]
    ) -> None:
        gone = [(place, name) for name in names]
        # Forgotten at once, and not learned again while the drop is pending: a save that follows must be written.
        recent.change((), gone)
        await self._change(rows.dropped(kind, place, names), lambda _: recent.change((), gone))

    async def _change(self, what: Sequence[Any], then: Callable[[list[Link]], object] | None = None) -> None:
        await self.database.write(lambda connection: rows.apply(connection, what), then, entry=what)

    async def refusals(self) -> dict[str, float]:
        return dict(await self.database.parsed(rows.REFUSALS, (), rows.parse_refusal))

    async def save_refusal(self, scope: str, since: float) -> None:
        await self._change(rows.refused(scope, since))

    async def drop_refusal(self, scope: str) -> None:
        await self._change(rows.pardoned(scope))

    async def places(self) -> Sequence[Place]:
        query = "SELECT scope, repository FROM tags UNION SELECT scope, repository FROM links"
        return [Place(scope, repository) for scope, repository in await self.database.read(query)]

    async def links(self, place: Place) -> Sequence[Link]:
        return await self.database.parsed(f"{rows.LINKS} WHERE scope=? AND repository=?", _of(place), parse_link)

    async def check(self) -> None:
        """Read a file that was too large to be checked at the start; see that a backup and all changes are there.

        OSError: the disk refuses.
        """
        if not self.database.is_checked:
            await self.database.check()
        if self._keeper.needs_backup:
            await self.backup()

    async def backup(self) -> None:
        """Bring the copy beside the records up to date, atomically; nothing if nothing changed since the last one."""
        self._backed_up = await self.database.alone(self._copy)

    def _copy(self, connection: sqlite3.Connection) -> tuple[int, int]:
        state = (self.database.generation, connection.total_changes)
        if state != self._backed_up:
            copy_whole(connection, self.database.path.with_name(BACKUP), self._files)
            self._keeper.backed_up(connection)
        return state

    async def move_in(self) -> None:
        """The folder is another one now: go on with what stands there, or bring all that is known. OSError: no."""
        await self.database.move_in()
        for recent in (self._tags, self._links):
            recent.values.clear()
        await self.backup()

    async def close(self) -> None:
        """Back up, then end; a disk that refuses the backup does not keep the server from ending."""
        try:
            await self.backup()
        except OSError as error:
            log.warning("records were not backed up at stop", error=str(error))
        finally:
            await self.database.close()
            self._keeper.changes.close()


def _of(place: Place) -> tuple[str, str]:
    return place.scope, place.repository
