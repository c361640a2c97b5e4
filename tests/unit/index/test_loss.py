"""The index is derived: its loss, its damage or its failure costs knowledge and never a request."""

import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.store.filesystem import Filesystem
from proxy.store.index import SqliteIndex
from tests.support.indexed import CHILDREN, JOB, MANIFEST, PLACE, PRIVATE, digest

DAMAGE: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "no database": lambda path: path.write_bytes(b"not a database" * 1000),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_a_damaged_index_starts_empty(tmp_path: Path, damage: str) -> None:
    """A lost or broken index is taken anew, says that it is new, and works (F38)."""
    index = SqliteIndex.open(tmp_path, Filesystem())
    await index.save_manifest(MANIFEST, CHILDREN)
    await index.close()
    DAMAGE[damage](tmp_path / "index.sqlite")
    with capture_logs() as lines:
        second = SqliteIndex.open(tmp_path, Filesystem())
    assert second.is_new
    assert await second.size_of(PLACE, digest("layer")) is None
    await second.save_manifest(MANIFEST, CHILDREN)
    assert await second.children_of(PLACE, MANIFEST.digest) == CHILDREN
    await second.close()
    assert (tmp_path / "index.sqlite.broken").exists() == (damage != "deleted")
    assert [line["event"] for line in lines] == ["the index is broken and set aside; it starts empty"] * (
        damage != "deleted"
    )


@pytest.mark.parametrize("column", ["size = size + 1", "child = replace(child, 'a', 'b')", "is_manifest = 1"])
async def test_a_row_that_is_not_as_written_is_not_believed(index: SqliteIndex, tmp_path: Path, column: str) -> None:
    """A bit that flipped in a child's row, where SQLite sees nothing wrong: the index is taken anew, at work."""
    await index.save_manifest(MANIFEST, CHILDREN)
    await index.save_manifest(replace(MANIFEST, place=PRIVATE), CHILDREN)
    index._sizes.clear()  # as after a start
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    connection.execute(f"UPDATE children SET {column} WHERE position = 1")
    connection.commit()
    connection.close()
    with capture_logs() as lines:
        assert await index.children_of(PLACE, MANIFEST.digest) is None
    assert [line["event"] for line in lines] == ["the index is broken and set aside; it starts empty"]
    assert (index.is_new, index.generation) == (True, 2)
    assert await index.size_of(PLACE, digest("layer")) is None
    await index.save_manifest(MANIFEST, CHILDREN)
    assert await index.children_of(PLACE, MANIFEST.digest) == CHILDREN


async def test_an_index_without_crcs_is_brought_up_to_date(tmp_path: Path) -> None:
    """One of an earlier version is read as it is, and its rows prove themselves from the next save on."""
    index = SqliteIndex.open(tmp_path, Filesystem())
    await index.save_manifest(MANIFEST, CHILDREN)
    await index.close()
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    connection.execute("ALTER TABLE children DROP COLUMN crc")
    connection.close()
    second = SqliteIndex.open(tmp_path, Filesystem())
    assert await second.children_of(PLACE, MANIFEST.digest) == CHILDREN
    assert await second.parents_of(PLACE, digest("layer")) == [MANIFEST]
    assert second.generation == 1
    await second.save_manifest(MANIFEST, CHILDREN)
    rows = await second.database.read("SELECT crc FROM children")
    assert len(rows) == len(CHILDREN)
    assert all(crc is not None for [crc] in rows)
    await second.close()


async def test_a_failing_index_fails_no_request(index: SqliteIndex, tmp_path: Path) -> None:
    """With its tables gone it answers as if nothing were known, says so once, and works again when they are back."""
    await index.save_manifest(MANIFEST, CHILDREN)
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    connection.execute("ALTER TABLE children RENAME TO away")
    with capture_logs() as lines:
        await index.save_manifest(MANIFEST, CHILDREN)
        assert await index.children_of(PLACE, MANIFEST.digest) is None
        assert await index.parents_of(PLACE, digest("layer")) == []
        assert index.trouble
        connection.execute("ALTER TABLE away RENAME TO children")
        assert await index.children_of(PLACE, MANIFEST.digest) == CHILDREN
        assert not index.trouble
    connection.close()
    assert [line["log_level"] for line in lines] == ["error", "warning"]


async def test_a_job_that_could_not_be_saved_is_said_to_stand_as_before(index: SqliteIndex, tmp_path: Path) -> None:
    """Who saved it knows that the queue still shows it as due."""
    await index.enqueue(JOB)
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    connection.execute("ALTER TABLE jobs RENAME TO away")
    assert not await index.save_job(replace(JOB, state="done"))
    connection.execute("ALTER TABLE away RENAME TO jobs")
    connection.close()
    assert await index.jobs() == [JOB]
    assert await index.save_job(replace(JOB, state="done"))
