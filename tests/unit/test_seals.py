"""Seals: what makes a stored file trusted, and what makes it suspect."""

import os
from pathlib import Path

from proxy.oci import Digest
from proxy.store.base import OpenBlob
from proxy.store.seals import Seal
from tests.support.checked import Bench, checked_store
from tests.support.damage import flip_a_bit, silently

DATA = b"layer" * 1000
DIGEST = Digest.of(DATA)


async def opened(bench: Bench) -> OpenBlob | None:
    blob = await bench.store.read(DIGEST)
    if blob is not None:
        blob.close()
    return blob


async def is_trusted(bench: Bench) -> bool:
    """Whether a read takes the blob without hashing it."""
    blob = await opened(bench)
    return blob is not None and blob.verdict is None


async def test_what_was_stored_or_checked_is_trusted(bench: Bench) -> None:
    """Adoption seals; a check of a suspect file that is whole seals it again."""
    await bench.store.adopt(bench.part(DATA), DIGEST, len(DATA))
    assert await is_trusted(bench)
    os.utime(bench.store.path_of(DIGEST))
    assert not await is_trusted(bench)
    assert await is_trusted(bench)
    assert bench.bad == []


async def test_a_seal_outlives_a_stop_at_a_sync_point_only(tmp_path: Path) -> None:
    """Killed before the sync point, what the last run wrote is suspect; after it, it is trusted."""
    for synced in (False, True):
        async with checked_store(tmp_path) as bench:
            await bench.store.put(DATA, DIGEST)
            if synced:
                await bench.seals.sync()
        async with checked_store(tmp_path) as bench:
            assert await is_trusted(bench) is synced
            await bench.store.delete(DIGEST)
            await bench.seals.sync()


async def test_a_deleted_blob_has_no_seal(bench: Bench) -> None:
    """Another file that comes to a deleted blob's place is not trusted for it."""
    await bench.store.put(DATA, DIGEST)
    await bench.seals.sync()
    seal = bench.seals.recall(DIGEST)
    assert seal is not None
    await bench.store.delete(DIGEST)
    assert not await bench.seals.trusts(DIGEST, seal)
    await bench.seals.sync()
    assert not await bench.seals.trusts(DIGEST, seal)
    assert await bench.seals.oldest(10) == []


async def test_the_blobs_checked_longest_ago_come_first(bench: Bench) -> None:
    """What is due is ordered by its last check, as of the last sync point."""
    digests = [Digest.of(b"%d" % n) for n in range(3)]
    for digest in digests:
        await bench.seals.note(digest, Seal(1, 2, 3))
        bench.clock.advance(1)
    await bench.seals.note(digests[0], Seal(1, 2, 3))
    await bench.seals.sync()
    assert [due.digest for due in await bench.seals.oldest(2)] == digests[1:]


async def test_rot_under_a_seal_is_found_by_a_check(bench: Bench) -> None:
    """A bit that flips without any trace in the file's time is found when the file is hashed, not before."""
    await bench.store.put(DATA, DIGEST)
    silently(flip_a_bit, bench.store.path_of(DIGEST))
    assert await is_trusted(bench)
    read: list[int] = []

    async def pause(count: int) -> None:
        read.append(count)

    assert (await bench.store.check(DIGEST, pause)).value == "bad"
    assert sum(read) == len(DATA)
    assert await opened(bench) is None
    assert [digest for digest, _, _ in bench.bad] == [DIGEST]
    assert (await bench.store.check(DIGEST, pause)).value == "gone"
