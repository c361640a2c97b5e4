"""The quarantine: bad files go there, bounded; a disk that keeps them at their place does not get them served."""

import os

from proxy.oci import Digest
from proxy.store import quarantine
from tests.support.checked import Bench
from tests.support.damage import flip_a_bit

DATA = b"layer" * 1000
DIGEST = Digest.of(DATA)


async def rotten(bench: Bench, data: bytes) -> Digest:
    """A stored blob whose file went bad."""
    digest = Digest.of(data)
    await bench.store.put(data, digest)
    flip_a_bit(bench.store.path_of(digest))
    return digest


async def test_the_newest_bad_files_are_kept(bench: Bench) -> None:
    """However many blobs go bad, a bounded number of them stays for a person to look at."""
    bodies = [b"%03d" % n for n in range(quarantine.FILES_MAX + 5)]
    for body in bodies:
        assert await bench.store.read(await rotten(bench, body)) is None
    assert len(bench.bad) == len(bodies)
    assert len(bench.quarantined) == quarantine.FILES_MAX
    assert bench.quarantined[-1][:1] == bodies[-1][:1]


async def test_what_others_put_there_stays(bench: Bench) -> None:
    """Only files named as the quarantine names them are counted and deleted."""
    note = bench.root / "quarantine" / "note.txt"
    note.write_text("looked at on Monday")
    for n in range(quarantine.FILES_MAX + 2):
        await bench.store.read(await rotten(bench, b"%03d" % n))
    assert note.read_text() == "looked at on Monday"


async def test_a_file_too_big_to_keep_is_deleted(bench: Bench) -> None:
    """A bad file beyond the bound of bytes leaves nothing but its line in the log."""
    digest = await rotten(bench, DATA)
    os.truncate(bench.store.path_of(digest), quarantine.BYTES_MAX + 1)  # sparse: it takes no room
    await bench.store.condemn(digest, "too long")
    assert bench.bad == [(digest, "too long", "")]
    assert bench.here() == []


async def test_a_good_file_that_came_meanwhile_is_not_taken(bench: Bench) -> None:
    """Between the verdict and the move another file came to the place: that one stays."""
    digest = await rotten(bench, DATA)
    path = bench.store.path_of(digest)
    judged = path.stat().st_ino
    fresh = bench.part(DATA)
    fresh.replace(path)
    files = quarantine.Quarantine(bench.root / "quarantine", bench.files)
    assert files.take(path, digest, judged) is None
    assert path.read_bytes() == DATA


async def test_a_bad_file_that_cannot_be_removed_is_not_served(bench: Bench) -> None:
    """A disk that refuses to rename and to delete keeps it; nobody gets it, and a good one replaces it."""
    digest = await rotten(bench, DATA)
    bench.files.at, bench.files.sticky = len(bench.files.steps) + 1, True
    assert await bench.store.read(digest) is None
    assert await bench.store.read(digest) is None
    assert bench.bad == [(digest, f"its {len(DATA)} bytes do not hash to it", "")]
    bench.files.at = 0
    await bench.store.put(DATA, digest)
    blob = await bench.store.read(digest)
    assert blob is not None
    assert blob.file.readall() == DATA
    blob.close()
