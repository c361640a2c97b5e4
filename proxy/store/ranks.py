"""The index's tables of what eviction goes by: how often each manifest was pulled, and each image's place. SQL only."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from proxy.oci import Digest
from proxy.rules import Place
from proxy.store.base import Rank
from proxy.store.database import Row

ADD_COUNT: Final = """
INSERT INTO counts VALUES (?, ?) ON CONFLICT DO UPDATE SET times = counts.times + excluded.times
"""
FORGET: Final = (
    "DELETE FROM children WHERE place = (SELECT id FROM places WHERE scope=? AND repository=?) AND parent=?",
    "DELETE FROM manifests WHERE place = (SELECT id FROM places WHERE scope=? AND repository=?) AND digest=?",
)
FORGET_UNHELD: Final = """
DELETE FROM counts WHERE digest=? AND NOT EXISTS (SELECT 1 FROM manifests WHERE manifests.digest = counts.digest)
"""


def parsed(row: Row) -> Rank:
    scope, repository, digest, is_main, position, uses, counted = row
    return Rank(Place(scope, repository), Digest.parse(digest), bool(is_main), position, uses, counted)


def save(connection: sqlite3.Connection, changed: Sequence[Rank], gone: Sequence[tuple[Place, Digest]]) -> None:
    connection.executemany(
        "DELETE FROM ranks WHERE scope=? AND repository=? AND digest=?",
        [(place.scope, place.repository, str(digest)) for place, digest in gone],
    )
    connection.executemany(
        "INSERT OR REPLACE INTO ranks VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                rank.place.scope,
                rank.place.repository,
                str(rank.digest),
                rank.is_main,
                rank.order,
                rank.uses,
                rank.counted,
            )
            for rank in changed
        ],
    )


def forget(connection: sqlite3.Connection, place: tuple[str, str], digests: Sequence[Digest]) -> None:
    for digest in map(str, digests):
        for query in FORGET:
            connection.execute(query, (*place, digest))
        connection.execute(FORGET_UNHELD, (digest,))
