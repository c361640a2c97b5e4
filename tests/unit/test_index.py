"""The index: children, jobs, last uses; derived, so its loss costs knowledge and never a request."""

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.oci import OCI_INDEX, OCI_MANIFEST, Digest
from proxy.rules import Place
from proxy.store.base import Job, Parent, Rank
from proxy.store.filesystem import Filesystem
from proxy.store.index import ENDED_JOBS_MAX, SIZES_MAX, USES_MAX, SqliteIndex

PLACE = Place("docker.io", "library/nginx")
PRIVATE = Place("docker.io|team", "library/nginx")


def digest(name: str) -> Digest:
    return Digest.of(name.encode())


MANIFEST = Parent(PLACE, digest("manifest"), OCI_MANIFEST, None)
CHILDREN = [(digest("config"), 100, False), (digest("layer"), 2000, False), (digest("layer"), 2000, False)]
JOB = Job(place=PLACE, rule="r", manifest=digest("manifest"), queued_at=1.0, due_at=2.0)


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[SqliteIndex]:
    opened = SqliteIndex.open(tmp_path, Filesystem())
    yield opened
    await opened.close()


async def test_an_empty_index_knows_nothing(index: SqliteIndex) -> None:
    """Every question has an answer when nothing is known, and the index says that it is new."""
    assert index.is_new
    assert await index.size_of(PLACE, digest("layer")) is None
    assert await index.parents_of(PLACE, digest("layer")) == []
    assert await index.children_of(PLACE, digest("manifest")) is None
    assert await index.jobs() == []
    assert await index.last_used([digest("layer")]) == {}
    assert await index.last_used([]) == {}


async def test_children_come_back_in_order(index: SqliteIndex) -> None:
    """A manifest's children are told as it lists them, a layer named twice included."""
    await index.save_manifest(MANIFEST, CHILDREN)
    assert await index.children_of(PLACE, MANIFEST.digest) == CHILDREN
    assert await index.parents_of(PLACE, digest("layer")) == [MANIFEST]


async def test_the_size_of_a_child_is_known_where_a_manifest_names_it(index: SqliteIndex) -> None:
    """A size is told only in the place whose manifest gave it."""
    await index.save_manifest(MANIFEST, CHILDREN)
    assert await index.size_of(PLACE, digest("layer")) == 2000
    assert await index.size_of(PRIVATE, digest("layer")) is None
    assert await index.size_of(PLACE, MANIFEST.digest) is None


async def test_a_known_size_needs_no_thread(index: SqliteIndex) -> None:
    """A size that was saved lately is answered without leaving the event loop: each blob miss asks it."""
    await index.save_manifest(MANIFEST, CHILDREN)
    with pytest.raises(StopIteration) as told:
        index.size_of(PLACE, digest("config")).send(None)
    assert told.value.value == 100


async def test_everything_outlives_a_restart(tmp_path: Path) -> None:
    """Children, jobs and flushed uses are there when the server comes back."""
    index = SqliteIndex.open(tmp_path, Filesystem())
    await index.save_manifest(MANIFEST, CHILDREN)
    await index.enqueue(JOB)
    await index.touch([digest("layer")], 7.0)
    await index.close()
    second = SqliteIndex.open(tmp_path, Filesystem())
    assert not second.is_new
    assert await second.children_of(PLACE, MANIFEST.digest) == CHILDREN
    assert [await second.size_of(PLACE, digest("layer")) for _ in range(2)] == [2000, 2000]
    assert await second.jobs("queued") == [JOB]
    assert await second.last_used([digest("layer"), digest("config")]) == {digest("layer"): 7.0}
    await second.close()


async def test_the_last_save_of_a_manifest_wins(index: SqliteIndex) -> None:
    """A manifest saved again has the children of the last save only."""
    await index.save_manifest(MANIFEST, CHILDREN)
    await index.save_manifest(MANIFEST, CHILDREN[:1])
    assert await index.children_of(PLACE, MANIFEST.digest) == CHILDREN[:1]
    assert await index.parents_of(PLACE, digest("layer")) == []


async def test_a_fetch_by_a_client_is_not_forgotten(index: SqliteIndex) -> None:
    """A save that is no client's GET leaves the time of the last one; a later GET moves it."""
    for fetched_at in (5.0, None, 9.0, None):
        await index.save_manifest(replace(MANIFEST, fetched_at=fetched_at), CHILDREN)
    assert await index.parents_of(PLACE, digest("config")) == [replace(MANIFEST, fetched_at=9.0)]


async def test_a_child_has_every_parent_of_its_place(index: SqliteIndex) -> None:
    """A shared layer belongs to each manifest that names it, in this place only."""
    other = Parent(PLACE, digest("other"), OCI_INDEX, 3.0)
    await index.save_manifest(MANIFEST, CHILDREN)
    await index.save_manifest(other, [(digest("layer"), 2000, False), (MANIFEST.digest, 500, True)])
    await index.save_manifest(replace(MANIFEST, place=PRIVATE), CHILDREN)
    assert sorted(await index.parents_of(PLACE, digest("layer")), key=str) == sorted([MANIFEST, other], key=str)
    assert await index.parents_of(PLACE, MANIFEST.digest) == [other]
    assert await index.children_of(PLACE, other.digest) == [
        (digest("layer"), 2000, False),
        (MANIFEST.digest, 500, True),
    ]


async def test_a_queued_job_is_not_queued_twice(index: SqliteIndex) -> None:
    """One image waits once; another place's job for the same digest is its own."""
    assert await index.enqueue(JOB)
    assert not await index.enqueue(replace(JOB, queued_at=50.0, due_at=60.0))
    assert await index.enqueue(replace(JOB, place=PRIVATE))
    assert await index.jobs("queued") == [JOB, replace(JOB, place=PRIVATE)]


@pytest.mark.parametrize("state", ["done", "failed"])
async def test_an_ended_job_can_be_queued_again(index: SqliteIndex, state: str) -> None:
    """An image whose hydration ended may be asked for anew, from attempt nought."""
    await index.save_job(replace(JOB, state=state, attempts=3, error="gone"))
    assert await index.enqueue(JOB)
    assert await index.jobs() == [JOB]


async def test_jobs_come_oldest_due_first(index: SqliteIndex) -> None:
    """Jobs are told by when they are due, of one state or of all, at most as many as asked for."""
    jobs = [replace(JOB, manifest=digest(str(n)), due_at=float(n)) for n in (3, 1, 2)]
    for job in jobs:
        await index.enqueue(job)
    failed = replace(jobs[0], state="failed", attempts=2, error="upstream said no")
    await index.save_job(failed)
    assert await index.jobs() == [jobs[1], jobs[2], failed]
    assert await index.jobs("queued") == [jobs[1], jobs[2]]
    assert await index.jobs("failed") == [failed]
    assert await index.jobs(limit=1) == [jobs[1]]


async def test_jobs_that_ended_long_ago_are_forgotten(index: SqliteIndex, tmp_path: Path) -> None:
    """Ended jobs are bounded in number, the newest kept; queued ones are never dropped."""
    await index.enqueue(replace(JOB, due_at=0.0))
    rows = [
        ("docker.io", "r", str(digest(str(n))), "r", 1.0, float(n), 1, "done", None) for n in range(ENDED_JOBS_MAX + 9)
    ]
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    with connection:
        connection.executemany("INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    connection.close()
    await index.touch([digest("layer")], 1.0)
    await index.flush()
    left = await index.jobs(limit=2 * ENDED_JOBS_MAX)
    assert len(left) == ENDED_JOBS_MAX + 1
    assert [job.due_at for job in left[:3]] == [0.0, 9.0, 10.0]


async def test_a_use_is_known_before_it_is_written(index: SqliteIndex) -> None:
    """The last use counts at once; a flush writes it, and an older stamp does not undo a newer one."""
    await index.touch([digest("a"), digest("b")], 5.0)
    assert await index.last_used([digest("a"), digest("c")]) == {digest("a"): 5.0}
    await index.flush()
    await index.touch([digest("a")], 4.0)
    await index.flush()
    assert await index.last_used([digest("a"), digest("b")]) == {digest("a"): 5.0, digest("b"): 5.0}


async def test_pulls_are_counted_and_forgotten_with_their_manifest(index: SqliteIndex) -> None:
    """A count is known at once and adds up across flushes; it goes with the last place that has the manifest."""
    await index.save_manifest(MANIFEST, CHILDREN)
    await index.save_manifest(replace(MANIFEST, place=PRIVATE), CHILDREN)
    for _ in range(2):
        await index.count_uses([MANIFEST.digest, digest("other")])
        await index.flush()
    await index.count_uses([MANIFEST.digest])
    assert await index.times() == {MANIFEST.digest: 3, digest("other"): 2}
    await index.flush()
    await index.forget_manifests(PLACE, [MANIFEST.digest])
    assert await index.parents_of(PLACE, digest("layer")) == []
    assert await index.children_of(PLACE, MANIFEST.digest) is None
    assert len(await index.parents_of(PRIVATE, digest("layer"))) == 1
    assert (await index.times())[MANIFEST.digest] == 3
    await index.forget_manifests(PRIVATE, [MANIFEST.digest])
    assert await index.times() == {digest("other"): 2}


async def test_ranks_come_back_as_they_were_saved(index: SqliteIndex) -> None:
    """One of each image; what is gone is gone."""
    one, two = Rank(PLACE, digest("one"), False, 1, 0, 1), Rank(PRIVATE, digest("one"), True, 2, 3, 9)
    await index.save_ranks([one, two], [])
    await index.save_ranks([replace(one, order=5, is_main=True)], [(PRIVATE, digest("one"))])
    assert await index.ranks() == [replace(one, order=5, is_main=True)]


async def test_sizes_of_the_cache_are_remembered_for_a_while(index: SqliteIndex) -> None:
    """In the order of time, and so many and no more."""
    for hour in range(SIZES_MAX + 3):
        await index.save_size(hour * 3600.0, hour)
    found = await index.sizes()
    assert (len(found), found[0], found[-1]) == (
        SIZES_MAX,
        (3 * 3600.0, 3),
        ((SIZES_MAX + 2) * 3600.0, SIZES_MAX + 2),
    )


async def test_noted_uses_are_bounded(index: SqliteIndex, tmp_path: Path) -> None:
    """Many uses between two flushes are written early: memory does not grow with what clients ask."""
    many = [Digest("sha256", f"{n:064x}") for n in range(USES_MAX + 1)]
    await index.touch(many, 1.0)
    connection = sqlite3.connect(tmp_path / "index.sqlite")
    assert connection.execute("SELECT count(*) FROM uses").fetchone() == (USES_MAX + 1,)
    connection.close()
    assert len(await index.last_used(many)) == USES_MAX + 1


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


async def test_a_manifest_without_children_is_known(index: SqliteIndex) -> None:
    """To have none is another thing than not to be known."""
    await index.save_manifest(MANIFEST, [])
    assert await index.children_of(PLACE, MANIFEST.digest) == []
    assert await index.children_of(PRIVATE, MANIFEST.digest) is None


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
