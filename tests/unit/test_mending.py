"""Records and index lost or damaged, each file in turn, in every way: nothing that was acknowledged is gone (F38)."""

import asyncio
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.freshness import TagRecord
from proxy.oci import OCI_MANIFEST, Descriptor, Digest
from proxy.rules import Place
from proxy.store.base import Link, Parent
from proxy.store.copies import DatabaseBroken
from proxy.store.filesystem import Filesystem
from proxy.store.index import SqliteIndex
from proxy.store.records import SqliteRecords
from tests.support.faulty import FaultyFilesystem

PLACE = Place("docker.io", "library/nginx")
COUNT = 60
PAGE = 4096
FLIPS = 6  # per file and run; `long` has more
RECORDS = ("records.sqlite", "records.sqlite-wal", "records.sqlite-shm", "records.backup.sqlite", "records.changes")
Damage = Callable[[Path, random.Random], None]


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def zero_a_page(path: Path, rng: random.Random) -> None:
    with path.open("r+b") as file:
        file.seek(rng.randrange(max(1, path.stat().st_size // PAGE)) * PAGE)
        file.write(bytes(min(PAGE, path.stat().st_size)))


def garbage(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(path.stat().st_size))


DAMAGES: dict[str, Damage] = {
    "deleted": lambda path, _: path.unlink(),
    "emptied": lambda path, _: os.truncate(path, 0),
    "cut short": lambda path, rng: os.truncate(path, rng.randrange(path.stat().st_size)),
    "zeroed page": zero_a_page,
    "garbage": garbage,
}


def record(n: int) -> TagRecord:
    descriptor = Descriptor(OCI_MANIFEST, digest_of(n), n + 1)
    return TagRecord(descriptor=descriptor, first_seen=float(n), last_checked=n + 0.5, origin="https://r.example")


def digest_of(n: int) -> Digest:
    return Digest.of(b"%d" % n)


async def fill(records: SqliteRecords, numbers: range) -> None:
    for n in numbers:
        await records.save_tag(PLACE, f"v{n}", record(n))
        await records.save_links([Link(PLACE, digest_of(n), OCI_MANIFEST, n + 1), Link(PLACE, digest_of(-n), None, n)])
    await records.save_refusal(f"scope {numbers[0]}", float(numbers[0]))
    await records.drop_tag(PLACE, f"v{numbers[0]}")
    await records.drop_links(PLACE, [digest_of(numbers[0])])


WANTED_TAGS = {f"v{n}": record(n) for n in range(COUNT) if n not in (0, COUNT // 2)}


async def lived(folder: Path, copy: Path) -> None:
    """A life with a backup in its middle; `copy` is its directory as a kill leaves it."""
    os.mkdir(folder)
    records = await asyncio.to_thread(SqliteRecords.open, folder, Filesystem())
    await fill(records, range(COUNT // 2))
    await records.backup()
    await fill(records, range(COUNT // 2, COUNT))
    shutil.copytree(folder, copy)
    await records.close()


async def assert_all_here(folder: Path) -> None:
    records = await asyncio.to_thread(SqliteRecords.open, folder, Filesystem())
    try:
        assert await records.tags(PLACE) == WANTED_TAGS
        assert await records.refusals() == {f"scope {n}": float(n) for n in (0, COUNT // 2)}
        links = {link.digest: link for link in await records.links(PLACE)}
        assert len(links) == 2 * COUNT - 1 - 2  # 0 and -0 are one, and two were dropped
        for tag, wanted in WANTED_TAGS.items():
            assert await records.tag(PLACE, tag) == wanted
            assert links[wanted.descriptor.digest].media_type == OCI_MANIFEST
        await records.save_tag(PLACE, "new", record(1))
        await records.check()
    finally:
        await records.close()


@pytest.fixture
async def lives(tmp_path: Path) -> dict[str, Path]:
    """The directory after a clean stop, and after a kill."""
    await lived(tmp_path / "stopped", tmp_path / "killed")
    return {"stopped": tmp_path / "stopped", "killed": tmp_path / "killed"}


@pytest.mark.parametrize("end", ["stopped", "killed"])
@pytest.mark.parametrize("damage", DAMAGES)
async def test_any_one_file_may_be_lost(lives: dict[str, Path], tmp_path: Path, end: str, damage: str) -> None:
    """Each file of the records in turn, gone or damaged: every tag and link is here after the start."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for name in RECORDS:
        if (lives[end] / name).exists():
            folder = tmp_path / name
            shutil.copytree(lives[end], folder)
            if (folder / name).stat().st_size or damage == "deleted":
                DAMAGES[damage](folder / name, rng)
            await assert_all_here(folder)


@pytest.mark.parametrize("count", [FLIPS, pytest.param(8 * FLIPS, marks=pytest.mark.long)])
@pytest.mark.parametrize("end", ["stopped", "killed"])
async def test_any_one_bit_may_flip(lives: dict[str, Path], tmp_path: Path, end: str, count: int) -> None:
    """A bit anywhere in any of the files: every tag and link is here after the start."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for name in RECORDS:
        for at in range(count if (lives[end] / name).exists() and (lives[end] / name).stat().st_size else 0):
            folder = tmp_path / f"{name}.{at}"
            shutil.copytree(lives[end], folder)
            flip(folder / name, rng)
            await assert_all_here(folder)
            shutil.rmtree(folder)


async def test_what_came_since_the_backup_is_named(lives: dict[str, Path]) -> None:
    """The records are gone: the log of the server says of when the backup is, and what was made again since."""
    (lives["killed"] / "records.sqlite").unlink()
    with capture_logs() as lines:
        await assert_all_here(lives["killed"])
    [restored, again] = [line for line in lines if line["log_level"] == "warning"]
    assert restored["event"] == "records restored from their backup"
    assert again["event"] == "changes were made again from the log of changes"
    assert (again["count"], again["lost"]) == (COUNT + 3, 0)
    assert f"tag docker.io/library/nginx:v{COUNT // 2}" in again["changed"]


async def test_what_even_the_log_of_changes_does_not_have_is_told(lives: dict[str, Path]) -> None:
    """Records and part of the log are gone at once: what is missing is counted, the rest is here."""
    (lives["killed"] / "records.sqlite").unlink()
    lines = (lives["killed"] / "records.changes").read_bytes().splitlines(keepends=True)
    (lives["killed"] / "records.changes").write_bytes(b"".join(lines[:5]) + lines[5][:-3])
    with capture_logs() as told:
        records = await asyncio.to_thread(SqliteRecords.open, lives["killed"], Filesystem())
    assert [line["lost"] for line in told if "lost" in line] == [1]
    assert len(await records.tags(PLACE)) > COUNT // 2 - 2
    await records.close()


async def test_records_that_break_at_work_are_mended_at_work(tmp_path: Path) -> None:
    """The file is overwritten under a running server: the next read or write that notices goes on all the same."""
    records = await asyncio.to_thread(SqliteRecords.open, tmp_path, Filesystem())
    await fill(records, range(COUNT // 2))
    await records.backup()
    await fill(records, range(COUNT // 2, COUNT))
    await records.database.alone(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
    path = tmp_path / "records.sqlite"
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))
    records._tags.values.clear()
    records._links.values.clear()
    await records.database.alone(forget_pages)
    assert await records.tags(PLACE) == WANTED_TAGS
    await records.save_tag(PLACE, "new", record(1))
    assert (await records.tag(PLACE, "new")) == record(1)
    assert (tmp_path / "records.sqlite.broken").exists()
    await records.close()


def forget_pages(connection: sqlite3.Connection) -> None:
    """Have SQLite read the file again."""
    connection.execute("PRAGMA shrink_memory")


async def test_a_disk_that_refuses_to_mend_is_asked_again(tmp_path: Path) -> None:
    """Broken records that cannot be replaced now are an I/O error, and whole again once the disk works."""
    files = FaultyFilesystem()
    records = await asyncio.to_thread(SqliteRecords.open, tmp_path, files)
    await fill(records, range(COUNT))
    files.at, files.sticky = len(files.steps) + 1, True
    generation = records.database.generation
    with pytest.raises(OSError, match="injected"):
        await records.database.mend(generation, DatabaseBroken(5, "found broken"))
    with pytest.raises(OSError, match="injected"):
        await records.tags(PLACE)
    files.at = 0
    assert len(await records.tags(PLACE)) == COUNT - 1
    await records.close()


@pytest.mark.parametrize("name", ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"])
@pytest.mark.parametrize("damage", [*DAMAGES, "flip"])
async def test_a_damaged_index_never_keeps_the_server_from_starting(tmp_path: Path, damage: str, name: str) -> None:
    """Whatever happened to the index it opens, and takes what it is told."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    index = await asyncio.to_thread(SqliteIndex.open, tmp_path, Filesystem())
    for n in range(200):
        await index.save_manifest(Parent(PLACE, digest_of(n), OCI_MANIFEST, None), [(digest_of(-n), n, False)])
    killed = tmp_path / "killed"
    shutil.copytree(tmp_path, killed)
    await index.close()
    for _ in range(FLIPS if damage == "flip" else 1):
        folder = tmp_path / "damaged"
        shutil.copytree(killed, folder)
        {**DAMAGES, "flip": flip}[damage](folder / name, random.Random(seed))
        index = await asyncio.to_thread(SqliteIndex.open, folder, Filesystem())
        await index.save_manifest(Parent(PLACE, digest_of(1), OCI_MANIFEST, None), [(digest_of(-1), 7, False)])
        assert await index.size_of(PLACE, digest_of(-1)) == 7
        assert index.trouble is None
        await index.close()
        shutil.rmtree(folder)


async def test_large_records_are_checked_behind_the_start(tmp_path: Path) -> None:
    """A file too large to hold up the start is read behind it; a row that is not as it was written has it replaced."""
    records = await asyncio.to_thread(SqliteRecords.open, tmp_path, Filesystem())
    await fill(records, range(COUNT))
    await records.save_links([Link(Place("large", "x" * 400), digest_of(n), None, n) for n in range(10_000, 30_000)])
    await records.close()
    connection = sqlite3.connect(tmp_path / "records.sqlite")
    connection.execute("UPDATE tags SET digest=? WHERE tag='v7'", (str(digest_of(8)),))
    connection.commit()
    connection.close()
    records = await asyncio.to_thread(SqliteRecords.open, tmp_path, Filesystem())
    assert not records.database.is_checked
    await records.check()
    assert (tmp_path / "records.sqlite.broken").exists()
    assert await records.tag(PLACE, "v7") == record(7)
    await records.close()
