"""Records: durable when told, from memory mostly, first media type for ever."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.oci import OCI_INDEX, OCI_MANIFEST
from proxy.rules import Place
from proxy.store.base import Link
from proxy.store.copies import LOG_BYTES
from proxy.store.database import Database
from proxy.store.filesystem import Filesystem
from proxy.store.records import SqliteRecords
from proxy.tasks import Tasks
from tests.support.recorded import DIGEST, PLACE, PRIVATE, link, record, reopened
from tests.support.waiting import turns

SAVER = """
import asyncio, sys
from pathlib import Path
from proxy.oci import Digest
from proxy.rules import Place
from proxy.store.base import Link
from proxy.store.filesystem import Filesystem
from proxy.store.records import SqliteRecords

async def main():
    records = SqliteRecords.open(Path(sys.argv[1]), Filesystem())
    for n in range(10**6):
        digest = Digest.of(b"%d" % n)
        await records.save_links([Link(Place("a", "b"), digest, None, n)])
        print(digest, flush=True)

asyncio.run(main())
"""


async def test_the_log_beside_the_records_stays_small(records: SqliteRecords, tmp_path: Path) -> None:
    """It is worked into its file in time, however much is written: the cap counts it."""
    log, most = tmp_path / "records.sqlite-wal", 0
    for start in range(0, 4000, 20):
        await records.save_links([link(n) for n in range(start, start + 20)])
        most = max(most, log.stat().st_size)
    assert LOG_BYTES / 2 < most < LOG_BYTES * 1.5  # the last commit begins just below the limit


async def test_what_was_never_saved_is_none(records: SqliteRecords) -> None:
    """An unknown tag or link is None, and a new store has no place."""
    assert await records.tag(PLACE, "latest") is None
    assert await records.link(PLACE, DIGEST) is None
    assert await records.tags(PLACE) == {}
    assert await records.links(PLACE) == []
    assert await records.places() == []


async def test_a_tag_keeps_every_field(records: SqliteRecords, tmp_path: Path) -> None:
    """A record comes back whole from memory, and from the disk after a restart."""
    await records.save_tag(PLACE, "latest", record())
    assert await records.tag(PLACE, "latest") == record()
    await records.backup()
    second = await reopened(tmp_path)
    assert await second.tag(PLACE, "latest") == record()
    await second.close()


async def test_the_last_save_of_a_tag_wins(records: SqliteRecords) -> None:
    """A tag has one record, in memory and on disk."""
    for checked in (2.0, 3.0, 4.0):
        await records.save_tag(PLACE, "latest", record(checked))
    assert await records.tag(PLACE, "latest") == record(4.0)
    assert await records.tags(PLACE) == {"latest": record(4.0)}


async def test_places_are_apart(records: SqliteRecords) -> None:
    """What one credential set was shown is unknown to another: the digest is held under a place, not at large."""
    await records.save_tag(PRIVATE, "latest", record())
    await records.save_links([link(1, place=PRIVATE)])
    assert await records.tag(PLACE, "latest") is None
    assert await records.link(PLACE, link(1).digest) is None
    assert await records.places() == [PRIVATE]


async def test_places_names_each_once(records: SqliteRecords) -> None:
    """A place with tags and links is one place."""
    await records.save_tag(PLACE, "latest", record())
    await records.save_links([link(1), link(2), link(3, place=PRIVATE)])
    assert sorted(await records.places(), key=str) == [PLACE, PRIVATE]


async def test_a_dropped_tag_is_gone(records: SqliteRecords) -> None:
    """Dropping is durable and leaves the other tags; dropping what is not here is nothing."""
    await records.save_tag(PLACE, "latest", record())
    await records.save_tag(PLACE, "1.27", record())
    await records.drop_tag(PLACE, "latest")
    await records.drop_tag(PLACE, "never")
    assert await records.tag(PLACE, "latest") is None
    assert await records.tags(PLACE) == {"1.27": record()}


async def test_dropped_links_are_gone(records: SqliteRecords) -> None:
    """Links are dropped one place at a time."""
    await records.save_links([link(1), link(2), link(3), link(1, place=PRIVATE)])
    await records.drop_links(PLACE, [link(1).digest, link(2).digest])
    assert await records.link(PLACE, link(1).digest) is None
    assert await records.links(PLACE) == [link(3)]
    assert await records.link(PRIVATE, link(1).digest) == link(1, place=PRIVATE)


@pytest.mark.parametrize("restart", [False, True], ids=["in memory", "on disk"])
async def test_the_first_media_type_stays(records: SqliteRecords, tmp_path: Path, restart: bool) -> None:
    """One digest is always answered with its first verified Content-Type (V06); an unknown one may become known."""
    for media_type in (None, OCI_MANIFEST, OCI_INDEX, None):
        await records.save_links([link(5, media_type)])
    subject = await reopened(tmp_path) if restart else records
    assert await subject.link(PLACE, link(5).digest) == link(5, OCI_MANIFEST)
    assert await subject.links(PLACE) == [link(5, OCI_MANIFEST)]
    if restart:
        await subject.close()


async def test_a_size_of_nothing_says_nothing(records: SqliteRecords) -> None:
    """A link saved without a size takes one later, and does not lose it again."""
    known = []
    for size in (0, 70, 0):
        await records.save_links([Link(PLACE, DIGEST, None, size)])
        known.append(await records.link(PLACE, DIGEST))
    assert known == [Link(PLACE, DIGEST, None, size) for size in (0, 70, 70)]
    assert await records.links(PLACE) == [Link(PLACE, DIGEST, None, 70)]


async def test_what_is_known_costs_no_write(tmp_path: Path) -> None:
    """Saving a link that says nothing new does not touch the disk."""
    database = Database(tmp_path / "records.sqlite", "", "FULL", Filesystem())
    await database.close()
    records = SqliteRecords.open(tmp_path, Filesystem())
    await records.save_links([link(1, OCI_MANIFEST), link(2)])
    before = (tmp_path / "records.sqlite-wal").stat().st_size
    await records.save_links([link(1), link(1, OCI_MANIFEST), link(2), Link(PLACE, link(2).digest, None, 0)])
    assert (tmp_path / "records.sqlite-wal").stat().st_size == before
    await records.save_links([link(2, OCI_MANIFEST)])
    assert (tmp_path / "records.sqlite-wal").stat().st_size > before
    await records.close()


async def test_a_known_record_needs_no_thread(records: SqliteRecords) -> None:
    """What was saved or read lately is answered without leaving the event loop, also while the disk hangs."""
    await records.save_tag(PLACE, "latest", record())
    await records.save_links([link(1)])
    for answer in (records.tag(PLACE, "latest"), records.link(PLACE, link(1).digest)):
        with pytest.raises(StopIteration):
            answer.send(None)


async def test_what_was_read_is_remembered(records: SqliteRecords, tmp_path: Path) -> None:
    """After a restart the first look goes to the disk, the second one to memory."""
    await records.save_tag(PLACE, "latest", record())
    await records.save_links([link(1)])
    second = await reopened(tmp_path)
    await second.tag(PLACE, "latest")
    await second.link(PLACE, link(1).digest)
    for answer in (second.tag(PLACE, "latest"), second.link(PLACE, link(1).digest)):
        with pytest.raises(StopIteration):
            answer.send(None)
    await second.close()


async def test_a_save_right_after_a_drop_is_kept(records: SqliteRecords) -> None:
    """A drop and a save in flight together end as they were asked for: dropped, then here."""
    await records.save_links([link(1)])
    await asyncio.gather(
        records.drop_links(PLACE, [link(1).digest]),
        records.link(PLACE, link(1).digest),
        records.save_links([link(1)]),
    )
    assert await records.link(PLACE, link(1).digest) == link(1)
    assert await records.links(PLACE) == [link(1)]


async def test_a_cancelled_caller_loses_no_write(records: SqliteRecords) -> None:
    """A caller who leaves does not take the write back, and memory says the same as the disk."""
    await records.save_tag(PLACE, "latest", record(2.0))
    saving = Tasks().start(records.save_tag(PLACE, "latest", record(3.0)), name="saving")
    dropping = Tasks().start(records.drop_tag(PLACE, "old"), name="dropping")
    await turns()
    for task in (saving, dropping):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await records.save_tag(PLACE, "other", record())
    assert await records.tag(PLACE, "latest") == record(3.0)
    assert (await records.tags(PLACE))["latest"] == record(3.0)


async def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    """Every save that returned before SIGKILL is on disk, and the file opens without a repair (I10)."""

    def save_and_kill() -> list[str]:
        command = [sys.executable, "-c", SAVER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            told = [child.stdout.readline().strip() for _ in range(50)]
            child.kill()
            return told + [line.strip() for line in child.stdout.readlines() if line.endswith("\n")]

    told = await asyncio.to_thread(save_and_kill)
    records = await reopened(tmp_path)
    kept = {str(found.digest) for found in await records.links(Place("a", "b"))}
    await records.close()
    assert set(told) <= kept
