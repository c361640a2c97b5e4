"""The index: children, jobs, last uses, ranks and sizes, from memory where they are known."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.oci import OCI_INDEX, Digest
from proxy.store.base import Parent, Rank
from proxy.store.filesystem import Filesystem
from proxy.store.index import ENDED_JOBS_MAX, SIZES_MAX, USES_MAX, SqliteIndex
from tests.support.indexed import CHILDREN, JOB, MANIFEST, PLACE, PRIVATE, digest


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


async def test_a_manifest_without_children_is_known(index: SqliteIndex) -> None:
    """To have none is another thing than not to be known."""
    await index.save_manifest(MANIFEST, [])
    assert await index.children_of(PLACE, MANIFEST.digest) == []
    assert await index.children_of(PRIVATE, MANIFEST.digest) is None
