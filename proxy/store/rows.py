"""The tables of the records: their SQL, and rows that prove themselves. Blocks.

Every row carries the CRC of its values, so that a bit that flipped on the disk is found when the row is read, not
believed.
"""

import errno
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from proxy.errors import DigestInvalid
from proxy.freshness import TagRecord
from proxy.oci import Descriptor, Digest
from proxy.rules import Place
from proxy.store.base import Link
from proxy.store.copies import DatabaseBroken
from proxy.store.database import Row

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tags (
    scope TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL,
    digest TEXT NOT NULL, media_type TEXT NOT NULL, size INTEGER NOT NULL,
    first_seen REAL NOT NULL, last_checked REAL NOT NULL, origin TEXT NOT NULL, crc INTEGER,
    PRIMARY KEY (scope, repository, tag)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS links (
    scope TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL,
    media_type TEXT, size INTEGER NOT NULL, crc INTEGER,
    PRIMARY KEY (scope, repository, digest)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS refusals (scope TEXT PRIMARY KEY, since REAL NOT NULL, crc INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (last INTEGER NOT NULL);
"""
TAG_COLUMNS: Final = "scope, repository, tag, digest, media_type, size, first_seen, last_checked, origin, crc"
LINK_COLUMNS: Final = "scope, repository, digest, media_type, size, crc"
REFUSALS: Final = "SELECT scope, since, crc FROM refusals"
SAVE_REFUSAL: Final = "INSERT OR REPLACE INTO refusals (scope, since, crc) VALUES (?, ?, ?)"
DROP_REFUSAL: Final = "DELETE FROM refusals WHERE scope=?"
TAGS: Final = f"SELECT {TAG_COLUMNS} FROM tags"  # noqa: S608 - our own constants
LINKS: Final = f"SELECT {LINK_COLUMNS} FROM links"  # noqa: S608 - our own constants
SAVE_TAG: Final = f"INSERT OR REPLACE INTO tags ({TAG_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608 - our own constants
SAVE_LINK: Final = f"INSERT OR REPLACE INTO links ({LINK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"  # noqa: S608 - our own constants
DROP_TAG: Final = "DELETE FROM tags WHERE scope=? AND repository=? AND tag=?"
DROP_LINK: Final = "DELETE FROM links WHERE scope=? AND repository=? AND digest=?"
ONE_LINK: Final = f"{LINKS} WHERE scope=? AND repository=? AND digest=?"


def upgrade(connection: sqlite3.Connection) -> None:
    """Give rows of an older version their CRC."""
    tables = (("tags", TAGS, SAVE_TAG), ("links", LINKS, SAVE_LINK), ("refusals", REFUSALS, SAVE_REFUSAL))
    for table, query, save in tables:
        columns = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        if "crc" not in columns:
            connection.execute(f"ALTER TABLE {table} ADD COLUMN crc INTEGER")
            rows = connection.execute(query).fetchall()
            connection.executemany(save, [(*row[:-1], crc_of(row[:-1])) for row in rows])


def are_empty(connection: sqlite3.Connection) -> bool:
    """Whether nothing is recorded at all."""
    return all(connection.execute(f"{query} LIMIT 1").fetchone() is None for query in (TAGS, LINKS, REFUSALS))


def crc_of(values: Sequence[Any]) -> int:
    return zlib.crc32(repr(tuple(values)).encode())


def proven(row: Row) -> Row:
    """A row without its CRC. DatabaseBroken: it is not as it was written."""
    if row[-1] != crc_of(row[:-1]):
        raise DatabaseBroken(errno.EIO, "a row of the records is not as it was written")
    return row[:-1]


def parse_tag(row: Row) -> tuple[Place, str, TagRecord]:
    scope, repository, tag, digest, media_type, size, first_seen, last_checked, origin = proven(row)
    descriptor = Descriptor(media_type, _digest(digest), size)
    record = TagRecord(descriptor=descriptor, first_seen=first_seen, last_checked=last_checked, origin=origin)
    return Place(scope, repository), tag, record


def parse_link(row: Row) -> Link:
    scope, repository, digest, media_type, size = proven(row)
    return Link(Place(scope, repository), _digest(digest), media_type, size)


def parse_refusal(row: Row) -> tuple[str, float]:
    scope, since = proven(row)
    return scope, since


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except DigestInvalid as cause:  # the client is not at fault: a row is damaged
        raise DatabaseBroken(errno.EIO, f"a row of the records is damaged: {cause}") from cause


def scan(connection: sqlite3.Connection) -> None:
    """Prove every row. DatabaseBroken: one is not as it was written."""
    for query in (TAGS, LINKS, REFUSALS):
        for row in connection.execute(query):
            proven(row)


# Changes, as the log of changes has them too


def tag_saved(place: Place, tag: str, record: TagRecord) -> list[Any]:
    found = record.descriptor
    ahead = [place.scope, place.repository, tag, str(found.digest), found.media_type, found.size]
    return ["tag", *ahead, float(record.first_seen), float(record.last_checked), record.origin]


def links_saved(links: Iterable[Link]) -> list[Any]:
    return [
        "links",
        *([link.place.scope, link.place.repository, str(link.digest), link.media_type, link.size] for link in links),
    ]


def dropped(kind: str, place: Place, names: Iterable[object]) -> list[Any]:
    """`kind` is untag or unlink."""
    return [kind, place.scope, place.repository, *map(str, names)]


def refused(scope: str, since: float) -> list[Any]:
    return ["refused", scope, float(since)]


def pardoned(scope: str) -> list[Any]:
    return ["pardoned", scope]


def apply(connection: sqlite3.Connection, what: Sequence[Any]) -> list[Link]:
    """Make one change; the links as they are after it, if it was of links."""
    kind, *rest = what
    if kind == "tag":
        connection.execute(SAVE_TAG, (*rest, crc_of(rest)))
    elif kind == "links":
        return [_save_link(connection, tuple(link)) for link in rest]
    elif kind == "refused":
        connection.execute(SAVE_REFUSAL, (*rest, crc_of(rest)))
    elif kind == "pardoned":
        connection.execute(DROP_REFUSAL, rest)
    elif kind in ("untag", "unlink"):
        scope, repository, *names = rest
        query = DROP_TAG if kind == "untag" else DROP_LINK
        connection.executemany(query, [(scope, repository, name) for name in names])
    return []


def _save_link(connection: sqlite3.Connection, values: Row) -> Link:
    """The first verified media type stays: one digest is always answered with one Content-Type. A size of 0 says
    nothing.
    """
    scope, repository, digest, media_type, size = values
    for row in connection.execute(ONE_LINK, (scope, repository, digest)):
        known = parse_link(row)
        media_type, size = known.media_type or media_type, size or known.size
    row = (scope, repository, digest, media_type, size)
    connection.execute(SAVE_LINK, (*row, crc_of(row)))
    return Link(Place(scope, repository), _digest(digest), media_type, size)


def named(what: Sequence[Any]) -> Iterator[str]:
    """What a change was about, for a person."""
    kind, *rest = what
    if kind == "links":
        for scope, repository, digest, *_ in rest:
            yield f"link {scope}/{repository}@{digest}"
    elif kind in ("refused", "pardoned"):
        yield f"{kind} {rest[0]}"
    elif kind == "tag":
        yield f"tag {rest[0]}/{rest[1]}:{rest[2]}"
    else:
        scope, repository, *names = rest
        separator = ":" if kind == "untag" else "@"
        yield from (f"{kind} {scope}/{repository}{separator}{name}" for name in names)
