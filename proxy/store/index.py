"""What is derived from manifests and requests: children, jobs, last uses, seals; may be lost, and is then relearned.

So a fault of this file never fails a request: it is logged once, the answer is as if nothing were known, and what works
again is used again. synchronous=NORMAL: a killed server loses nothing, a power cut the last moments.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from cachetools import LRUCache

from proxy.errors import DigestInvalid
from proxy.log import logger
from proxy.oci import Digest
from proxy.rules import Place
from proxy.store import children, ranks, seals
from proxy.store.base import Job, Parent, Rank
from proxy.store.copies import set_aside
from proxy.store.database import Database, DatabaseBroken, Row
from proxy.store.filesystem import Filesystem
from proxy.store.keeper import Keeper

Value = TypeVar("Value")
Children = Sequence[children.Child]
log = logger("index")

FILE: Final = "index.sqlite"
SIZES_IN_MEMORY: Final = 65_536
USES_MAX: Final = 50_000  # noted uses before they are written without waiting for the schedule
ENDED_JOBS_MAX: Final = 10_000
SIZES_MAX: Final = 1000  # earlier sizes of the cache: about six weeks, one an hour
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS jobs (scope TEXT NOT NULL, repository TEXT NOT NULL, manifest TEXT NOT NULL,
    rule TEXT NOT NULL, queued_at REAL NOT NULL, due_at REAL NOT NULL, attempts INTEGER NOT NULL,
    state TEXT NOT NULL, error TEXT, PRIMARY KEY (scope, repository, manifest));
CREATE INDEX IF NOT EXISTS due ON jobs (state, due_at);
CREATE TABLE IF NOT EXISTS uses (digest TEXT PRIMARY KEY, used_at REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sizes (at INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS counts (digest TEXT PRIMARY KEY, times INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS ranks (scope TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL,
    is_main INTEGER NOT NULL, position INTEGER NOT NULL, uses INTEGER NOT NULL, counted INTEGER NOT NULL,
    PRIMARY KEY (scope, repository, digest)) WITHOUT ROWID;
"""
EVERYTHING: Final = children.SCHEMA + SCHEMA + seals.SCHEMA
USES: Final = "SELECT digest, used_at FROM uses WHERE digest IN (SELECT value FROM json_each(?))"
JOBS: Final = "SELECT scope, repository, manifest, rule, queued_at, due_at, attempts, state, error FROM jobs"
SAVE_JOB: Final = """
INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET rule=excluded.rule,
queued_at=excluded.queued_at, due_at=excluded.due_at, attempts=excluded.attempts, state=excluded.state,
error=excluded.error
"""
SAVE_USE: Final = """
INSERT INTO uses VALUES (?, ?) ON CONFLICT DO UPDATE SET used_at = max(uses.used_at, excluded.used_at)
"""
FORGET_ENDED_JOBS: Final = """
DELETE FROM jobs WHERE rowid IN (SELECT rowid FROM jobs WHERE state <> 'queued' ORDER BY due_at DESC LIMIT -1 OFFSET ?)
"""


class IndexKeeper(Keeper):
    """A broken index is set aside, and an empty one taken."""

    def __init__(self, files: Filesystem) -> None:
        self._files = files

    def replace(self, path: Path, error: DatabaseBroken) -> None:
        aside = set_aside(path, self._files)
        log.warning("the index is broken and set aside; it starts empty", file=aside.name, error=str(error))

    def prepare(self, connection: sqlite3.Connection) -> None:
        children.upgrade(connection)


class SqliteIndex:
    """An Index on disk. Open with `SqliteIndex.open` in a disk thread. One that `is_new` knows nothing yet; a server
    with blobs then has lost its index.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._sizes: LRUCache[tuple[Place, Digest], int] = LRUCache(SIZES_IN_MEMORY)
        self._uses: dict[Digest, float] = {}
        self._counts: Counter[Digest] = Counter()
        self._trouble: str | None = None

    @classmethod
    def open(cls, folder: Path, files: Filesystem) -> "SqliteIndex":
        """Open or create; a broken file is set aside and an empty one taken. Blocks."""
        return cls(Database(folder / FILE, EVERYTHING, "NORMAL", files, IndexKeeper(files)))

    @property
    def is_new(self) -> bool:
        """Whether it knew nothing when its file was opened last."""
        return self.database.was_made

    @property
    def generation(self) -> int:
        """How often its file was opened: with a new one that `is_new` everything is to be learned again."""
        return self.database.generation

    async def check(self) -> None:
        """Read a file that was too large to be checked at the start. OSError: the disk refuses."""
        if not self.database.is_checked:
            await self.database.check()

    @property
    def trouble(self) -> str | None:
        """What the last operation failed with, None if it worked: for health."""
        return self._trouble

    async def save_manifest(self, parent: Parent, of: Children) -> None:
        await self._write(lambda connection: children.save(connection, parent, of))
        self._sizes.update(((parent.place, digest), size) for digest, size, _ in of)

    async def size_of(self, place: Place, child: Digest) -> int | None:
        if (known := self._sizes.get((place, child))) is not None:
            return known
        found = await self._read(children.SIZE, (*_of(place), str(child)), children.parsed_child)
        if not found or found[0] is None:
            return None
        self._sizes[place, child] = found[0][1]
        return found[0][1]

    async def parents_of(self, place: Place, child: Digest) -> Sequence[Parent]:
        parse = partial(children.parsed_parent, place)
        found = await self._read(children.PARENTS, (*_of(place), str(child)), parse)
        return list(dict.fromkeys(found))  # one that names the child twice is one parent

    async def children_of(self, place: Place, parent: Digest) -> Children | None:
        found = await self._read(children.CHILDREN, (*_of(place), str(parent)), children.parsed_child)
        return [child for child in found if child is not None] if found else None

    async def enqueue(self, job: Job) -> bool:
        row = _job_row(job)
        added = await self._write(
            lambda connection: connection.execute(f"{SAVE_JOB} WHERE jobs.state <> 'queued'", row).rowcount
        )
        return bool(added)

    async def jobs(self, state: str | None = None, limit: int = 1000) -> Sequence[Job]:
        if state is None:
            return await self._read(f"{JOBS} ORDER BY due_at LIMIT ?", (limit,), _job)
        return await self._read(f"{JOBS} WHERE state=? ORDER BY due_at LIMIT ?", (state, limit), _job)

    async def save_job(self, job: Job) -> bool:
        row = _job_row(job)
        return await self._write(lambda connection: connection.execute(SAVE_JOB, row).rowcount) is not None

    async def touch(self, digests: Sequence[Digest], now: float) -> None:
        self._uses.update(dict.fromkeys(digests, now))
        if len(self._uses) > USES_MAX:
            await self.flush()

    async def last_used(self, digests: Sequence[Digest]) -> dict[Digest, float]:
        wanted = json.dumps([str(digest) for digest in digests])
        found = dict(await self._read(USES, (wanted,), lambda row: (Digest.parse(row[0]), float(row[1]))))
        return found | {digest: self._uses[digest] for digest in digests if digest in self._uses}

    async def count_uses(self, digests: Sequence[Digest]) -> None:
        self._counts.update(digests)
        if len(self._counts) > USES_MAX:
            await self.flush()

    async def times(self) -> dict[Digest, int]:
        rows = await self._read("SELECT digest, times FROM counts", (), lambda row: (Digest.parse(row[0]), int(row[1])))
        return dict(Counter(dict(rows)) + self._counts)

    async def ranks(self) -> Sequence[Rank]:
        return await self._read("SELECT * FROM ranks", (), ranks.parsed)

    async def save_ranks(self, changed: Sequence[Rank], gone: Sequence[tuple[Place, Digest]]) -> None:
        await self._write(lambda connection: ranks.save(connection, changed, gone))

    async def forget_manifests(self, place: Place, digests: Sequence[Digest]) -> None:
        for digest in digests:
            self._counts.pop(digest, None)
        await self._write(lambda connection: ranks.forget(connection, _of(place), digests))

    async def save_size(self, at: float, taken: int) -> None:
        await self._write(lambda connection: _save_size(connection, at, taken))

    async def sizes(self) -> Sequence[tuple[float, int]]:
        return await self._read("SELECT at, bytes FROM sizes ORDER BY at", (), lambda row: (float(row[0]), int(row[1])))

    async def flush(self) -> None:
        """Write the noted uses, and forget hydrations that ended long ago. What cannot be written is dropped."""
        uses, self._uses = self._uses, {}
        counts, self._counts = self._counts, Counter()
        if uses or counts:
            await self._write(lambda connection: _save_uses(connection, uses, counts))

    async def close(self) -> None:
        try:
            await self.flush()
        finally:
            await self.database.close()

    async def _read(self, query: str, values: Row, parse: Callable[[Row], Value]) -> list[Value]:
        try:
            found = await self.database.parsed(query, values, parse)
        except (OSError, DigestInvalid) as error:
            self._note(str(error))
            return []
        self._note(None)
        return found

    async def _write(self, work: Callable[[sqlite3.Connection], Value]) -> Value | None:
        try:
            done = await self.database.write(work)
        except OSError as error:
            self._note(str(error))
            return None
        self._note(None)
        return done

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and self._trouble is None:
            log.error("the index fails; nothing is learned until it works again", error=trouble)
        elif trouble is None and self._trouble is not None:
            log.warning("the index works again")
        self._trouble = trouble


def _of(place: Place) -> tuple[str, str]:
    return place.scope, place.repository


def _save_uses(connection: sqlite3.Connection, uses: dict[Digest, float], counts: Mapping[Digest, int]) -> None:
    connection.executemany(SAVE_USE, [(str(digest), used_at) for digest, used_at in uses.items()])
    connection.executemany(ranks.ADD_COUNT, [(str(digest), times) for digest, times in counts.items()])
    connection.execute(FORGET_ENDED_JOBS, (ENDED_JOBS_MAX,))


def _save_size(connection: sqlite3.Connection, at: float, taken: int) -> None:
    connection.execute("INSERT OR REPLACE INTO sizes VALUES (?, ?)", (int(at), taken))
    connection.execute(
        "DELETE FROM sizes WHERE at NOT IN (SELECT at FROM sizes ORDER BY at DESC LIMIT ?)", (SIZES_MAX,)
    )


def _job_row(job: Job) -> Row:
    ahead = (*_of(job.place), str(job.manifest), job.rule, job.queued_at, job.due_at)
    return (*ahead, job.attempts, job.state, job.error)


def _job(row: Row) -> Job:
    scope, repository, manifest, rule, queued_at, due_at, attempts, state, error = row
    return Job(
        place=Place(scope, repository),
        rule=rule,
        manifest=Digest.parse(manifest),
        queued_at=queued_at,
        due_at=due_at,
        attempts=attempts,
        state=state,
        error=error,
    )
