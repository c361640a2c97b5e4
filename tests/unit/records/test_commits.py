"""Queued writes share a commit, and fail alone."""

import asyncio
import sqlite3
import threading
from functools import partial
from pathlib import Path

from proxy.store.database import Database
from proxy.store.filesystem import Filesystem
from proxy.tasks import Tasks
from tests.support.waiting import turns

TABLE = "CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY)"


def insert(number: int, connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO t VALUES (?)", (number,))


async def test_queued_writes_share_a_commit(tmp_path: Path) -> None:
    """Saves that wait while the disk is busy are committed together."""
    database = Database(tmp_path / "x.sqlite", TABLE, "FULL", Filesystem())
    gate = threading.Event()
    statements: list[str] = []
    await database.alone(lambda connection: connection.set_trace_callback(statements.append))
    held = Tasks().start(database.alone(lambda _: gate.wait()), name="held")
    saves = [Tasks().start(database.write(partial(insert, n)), name="save") for n in range(100)]
    await turns()
    gate.set()
    await asyncio.gather(held, *saves)
    assert statements.count("COMMIT") == 1
    assert await database.read("SELECT count(*) FROM t") == [(100,)]
    await database.close()


async def test_one_failing_write_fails_alone(tmp_path: Path) -> None:
    """Of writes that share a commit the good ones are kept and the bad one is told to its own caller."""
    database = Database(tmp_path / "x.sqlite", TABLE, "FULL", Filesystem())
    gate = threading.Event()
    held = Tasks().start(database.alone(lambda _: gate.wait()), name="held")
    saves = [
        Tasks().start(
            database.write(partial(insert, n)),
            name="save",
            report=False,
        )
        for n in (1, 2, 2, 3)
    ]
    await turns()
    gate.set()
    await held
    ends = await asyncio.gather(*saves, return_exceptions=True)
    assert [isinstance(end, OSError) for end in ends] == [False, False, True, False]
    assert await database.read("SELECT n FROM t") == [(1,), (2,), (3,)]
    await database.close()
