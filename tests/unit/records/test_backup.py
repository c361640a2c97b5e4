"""Records that are damaged come back from their backup; a row that is not as it was written is not believed."""

import os
import sqlite3
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.oci import OCI_MANIFEST, Digest
from proxy.store.filesystem import Filesystem
from proxy.store.records import SqliteRecords
from tests.support.faulty import FaultyFilesystem
from tests.support.recorded import PLACE, link, record, reopened


async def filled(folder: Path) -> None:
    """A closed store of two tags and a link, with its backup."""
    records = SqliteRecords.open(folder, Filesystem())
    await records.save_tag(PLACE, "latest", record())
    await records.save_links([link(1, OCI_MANIFEST)])
    await records.close()


def damage_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100 : len(data) - 200] = os.urandom(len(data) - 300)
    path.write_bytes(data)


DAMAGE = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: os.truncate(path, 0),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "no database": lambda path: path.write_bytes(b"not a database" * 1000),
    "overwritten": damage_middle,
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damaged_records_are_restored_from_their_backup(tmp_path: Path, damage: str) -> None:
    """A missing or broken file is replaced by its backup; the log says so, and names how old it is."""
    await filled(tmp_path)
    DAMAGE[damage](tmp_path / "records.sqlite")
    (tmp_path / "records.sqlite-wal").write_bytes(b"the log of another file")
    with capture_logs() as lines:
        records = await reopened(tmp_path)
    assert await records.tag(PLACE, "latest") == record()
    assert await records.link(PLACE, link(1).digest) == link(1, OCI_MANIFEST)
    await records.save_links([link(2)])
    await records.close()
    restored = [line for line in lines if line["event"].startswith("records restored from their backup")]
    assert [line["backup_of"][:4].isdigit() for line in restored] == [True]


@pytest.mark.parametrize("damage", ["no database", "overwritten"])
async def test_without_a_whole_backup_records_start_empty(tmp_path: Path, damage: str) -> None:
    """Both files broken: both are set aside for a person to look at, the log says so, the server starts."""
    await filled(tmp_path)
    DAMAGE[damage](tmp_path / "records.sqlite")
    DAMAGE[damage](tmp_path / "records.backup.sqlite")
    with capture_logs() as lines:
        records = await reopened(tmp_path)
    assert await records.places() == []
    await records.close()
    assert (tmp_path / "records.sqlite.broken").exists()
    assert (tmp_path / "records.backup.sqlite.broken").exists()
    assert [line["log_level"] for line in lines] == ["warning", "warning"]


async def test_a_row_that_is_not_as_it_was_written_is_not_believed(tmp_path: Path) -> None:
    """A row that changed without its CRC, however sensible it looks, has the file restored from its backup."""
    await filled(tmp_path)
    connection = sqlite3.connect(tmp_path / "records.sqlite")
    connection.execute("UPDATE tags SET digest=?", (str(Digest.of(b"another")),))
    connection.commit()
    connection.close()
    records = await reopened(tmp_path)
    assert await records.tag(PLACE, "latest") == record()
    await records.close()


async def test_an_unchanged_store_is_not_backed_up_again(records: SqliteRecords, tmp_path: Path) -> None:
    """A backup costs a copy of the file, so nothing changed means nothing done."""
    backup = tmp_path / "records.backup.sqlite"
    await records.save_links([link(1)])
    await records.backup()
    first = backup.stat().st_ino
    await records.backup()
    assert backup.stat().st_ino == first
    await records.save_links([link(2)])
    await records.backup()
    assert backup.stat().st_ino != first


async def test_a_failed_backup_keeps_the_last_one(tmp_path: Path) -> None:
    """A disk that fails at any step of the copy leaves the old backup whole, and the records in use."""
    files = FaultyFilesystem()
    records = SqliteRecords.open(tmp_path, files)
    await records.save_links([link(0)])
    await records.backup()
    whole = 0
    for n in range(1, 30):
        await records.save_links([link(n)])
        files.steps.clear()
        files.at = n
        try:
            await records.backup()
            whole += 1
        except OSError:
            pass
        files.at = 0
        check = sqlite3.connect(tmp_path / "records.backup.sqlite")
        assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert check.execute("SELECT count(*) FROM links").fetchone()[0] >= 1
        check.close()
    assert whole >= 5
    assert len(await records.links(PLACE)) == 30
    await records.close()
