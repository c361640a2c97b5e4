"""The index's tables of manifests and their children: their SQL, and rows of children that prove themselves.

What the index says of a child's size and digest is believed where a client waits, so every such row carries the CRC of
its values. All else in the index only orders or hints: a bit that flips there costs a hash, or a turn.
"""

import errno
import sqlite3
from collections.abc import Sequence
from typing import Final

from proxy.oci import Digest
from proxy.rules import Place
from proxy.store.base import Parent
from proxy.store.copies import DatabaseBroken
from proxy.store.database import Row
from proxy.store.rows import crc_of

Child = tuple[Digest, int, bool]  # digest, size, is_manifest

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS places (id INTEGER PRIMARY KEY, scope TEXT NOT NULL, repository TEXT NOT NULL,
    UNIQUE (scope, repository));
CREATE TABLE IF NOT EXISTS manifests (place INTEGER NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL,
    fetched_at REAL, PRIMARY KEY (place, digest)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS children (place INTEGER NOT NULL, parent TEXT NOT NULL, position INTEGER NOT NULL,
    child TEXT NOT NULL, size INTEGER NOT NULL, is_manifest INTEGER NOT NULL, crc INTEGER,
    PRIMARY KEY (place, parent, position)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS parents ON children (place, child, size, parent);
"""
# A save that is not of a client's GET does not undo the GET that was.
SAVE_MANIFEST: Final = """
INSERT INTO manifests VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE
SET media_type = excluded.media_type, fetched_at = coalesce(excluded.fetched_at, manifests.fetched_at)
"""
SAVE_CHILD: Final = """
INSERT INTO children (place, parent, position, child, size, is_manifest, crc) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
ROW: Final = "c.place, c.parent, c.position, c.child, c.size, c.is_manifest, c.crc"
PARENTS: Final = f"""
SELECT m.digest, m.media_type, m.fetched_at, {ROW} FROM places p JOIN children c ON c.place = p.id
JOIN manifests m ON m.place = c.place AND m.digest = c.parent WHERE p.scope=? AND p.repository=? AND c.child=?
"""  # noqa: S608 - our own constants
CHILDREN: Final = f"""
SELECT {ROW} FROM places p JOIN manifests m ON m.place = p.id
LEFT JOIN children c ON c.place = m.place AND c.parent = m.digest
WHERE p.scope=? AND p.repository=? AND m.digest=? ORDER BY c.position
"""  # noqa: S608 - our own constants
SIZE: Final = f"""
SELECT {ROW} FROM places p JOIN children c ON c.place = p.id
WHERE p.scope=? AND p.repository=? AND c.child=? LIMIT 1
"""  # noqa: S608 - our own constants


def upgrade(connection: sqlite3.Connection) -> None:
    """Give the rows of an older version room for their CRC; what has none yet is believed until it is saved again."""
    if "crc" not in {row[1] for row in connection.execute("PRAGMA table_info(children)")}:
        connection.execute("ALTER TABLE children ADD COLUMN crc INTEGER")


def save(connection: sqlite3.Connection, parent: Parent, children: Sequence[Child]) -> None:
    digest, of = str(parent.digest), (parent.place.scope, parent.place.repository)
    connection.execute("INSERT OR IGNORE INTO places (scope, repository) VALUES (?, ?)", of)
    [place] = connection.execute("SELECT id FROM places WHERE scope=? AND repository=?", of).fetchone()
    connection.execute(SAVE_MANIFEST, (place, digest, parent.media_type, parent.fetched_at))
    connection.execute("DELETE FROM children WHERE place=? AND parent=?", (place, digest))
    rows = ((place, digest, at, str(child), size, int(nested)) for at, (child, size, nested) in enumerate(children))
    connection.executemany(SAVE_CHILD, [(*row, crc_of(row)) for row in rows])


def parsed_child(row: Row) -> Child | None:
    """A row of CHILDREN or SIZE; None where a manifest has no children. DatabaseBroken: not as it was written."""
    _place, parent, _position, child, size, is_manifest, crc = row
    if parent is None:
        return None
    if crc is not None and crc != crc_of(row[:-1]):
        raise DatabaseBroken(errno.EIO, "a row of the index is not as it was written")
    return Digest.parse(child), int(size), bool(is_manifest)


def parsed_parent(place: Place, row: Row) -> Parent:
    digest, media_type, fetched_at, *rest = row
    parsed_child(tuple(rest))
    return Parent(place, Digest.parse(digest), media_type, fetched_at)
