"""The growing file: appended, hashed, kept, shared, and never a planted one."""

import os
import resource
import stat
from pathlib import Path

import pytest

from proxy.downloads.part import IOV_MAX, Part
from proxy.downloads.partfile import part_path
from proxy.downloads.trail import TURN
from proxy.oci import Digest
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from tests.support.leaks import open_files
from tests.support.parts import DATA, DIGEST, append


async def test_a_part_grows_and_hashes(part: Part, tmp_path: Path) -> None:
    """Each append moves the frontier and the hash with it; the file holds the bytes and nothing else."""
    assert (part.frontier, part.hashed, await part.matches()) == (0, 0, False)
    await append(part, [DATA[:10], DATA[10:1000]])
    assert (part.frontier, await part.matches(), part.hashed) == (1000, False, 1000)
    await append(part, [])
    await append(part, [b"", DATA[1000:]])
    assert part.frontier == len(DATA)
    assert await part.matches()
    assert (part.hashed, part.window.held) == (len(DATA), 0)
    assert part.path == part_path(tmp_path, DIGEST)
    assert part.path.read_bytes() == DATA
    assert stat.S_IMODE(part.path.stat().st_mode) == 0o600


async def test_more_buffers_than_one_call_takes(part: Part) -> None:
    """An append of more pieces than the kernel takes at once is written whole and in order."""
    pieces = [DATA[start : start + 64] for start in range(0, len(DATA), 64)]
    assert len(pieces) > 2 * IOV_MAX
    await append(part, pieces)
    assert part.path.read_bytes() == DATA
    assert await part.matches()


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
async def test_every_algorithm_is_hashed_by_itself(
    tmp_path: Path, threads: Threads, tasks: Tasks, algorithm: str
) -> None:
    """A part is checked with its own digest's algorithm, and wrong bytes never match."""
    for given in (DATA, DATA[:-1] + b"?"):
        part = await Part.open(tmp_path, Digest.of(DATA, algorithm), threads, tasks)
        await append(part, [given])
        assert await part.matches() is (given == DATA)
        await part.discard()
        part.close()


async def test_a_kept_prefix_is_hashed_again(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """Opened again, a part goes on at its length; the hash catches up behind appends, and then all match."""
    before = await Part.open(tmp_path, DIGEST, threads, tasks)
    await append(before, [DATA[:100_000]])
    before.close()
    part = await Part.open(tmp_path, DIGEST, threads, tasks)
    assert (part.frontier, part.hashed) == (100_000, 0)
    await append(part, [DATA[100_000:]])
    assert await part.matches()
    assert part.hashed == len(DATA)
    assert part.window.held == 0
    part.close()


async def test_a_long_prefix_is_hashed_in_bounded_jobs(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """A prefix longer than one job catches up too, also when it is appended to meanwhile."""
    data = os.urandom(1 << 20) * (TURN // (1 << 20) + 1)
    digest = Digest.of(data)
    part_path(tmp_path, digest).write_bytes(data[:-5])
    part = await Part.open(tmp_path, digest, threads, tasks)
    catching = tasks.start(part.matches(), name="catch up")
    await append(part, [data[-5:]])
    await catching
    assert await part.matches()
    part.close()


async def test_a_wrong_prefix_never_matches(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """What was kept is not trusted: other bytes in front, and the whole does not match."""
    part_path(tmp_path, DIGEST).write_bytes(b"?" + DATA[1:100])
    part = await Part.open(tmp_path, DIGEST, threads, tasks)
    await append(part, [DATA[100:]])
    assert not await part.matches()
    part.close()


async def test_a_share_outlives_renaming_deleting_and_closing(part: Part, tmp_path: Path) -> None:
    """A reader's file stays readable, and grows, whatever becomes of the name and of the part."""
    await append(part, [DATA[:100]])
    with part.share() as renamed, part.share() as deleted:
        part.path.rename(tmp_path / "elsewhere")
        await append(part, [DATA[100:]])
        assert os.pread(renamed.fileno(), len(DATA), 0) == DATA
        (tmp_path / "elsewhere").unlink()
        await part.discard()
        part.close()
        assert os.pread(deleted.fileno(), len(DATA), 0) == DATA
        assert not deleted.writable()


async def test_discarding_deletes_the_name(part: Part) -> None:
    """A discarded part is gone; discarding it twice is no error."""
    await append(part, [DATA])
    await part.discard()
    assert not part.path.exists()
    await part.discard()


async def test_a_planted_link_is_refused(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """A symbolic link at the part's path, to a file or to nowhere, is refused, its target untouched (V48)."""
    victim, missing = tmp_path / "victim", tmp_path / "missing"
    victim.write_bytes(b"precious")
    files = open_files()
    for target in (victim, missing):
        part_path(tmp_path, DIGEST).symlink_to(target)
        with pytest.raises(OSError, match="symbolic links"):
            await Part.open(tmp_path, DIGEST, threads, tasks)
        part_path(tmp_path, DIGEST).unlink()
    assert victim.read_bytes() == b"precious"
    assert not missing.exists()
    assert open_files() == files


async def test_a_folder_that_is_gone_is_an_error(tmp_path: Path, threads: Threads, tasks: Tasks) -> None:
    """What the disk refuses is an OSError, for the transfer to turn into pass-through."""
    with pytest.raises(FileNotFoundError):
        await Part.open(tmp_path / "gone", DIGEST, threads, tasks)


async def test_a_short_write_tells_its_errno(part: Part) -> None:
    """A disk that takes a part of an append refuses it: the frontier stays, and the next append goes on there."""
    await append(part, [DATA[:1000]])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))  # the kernel then writes short, as when nearly full
    try:
        with pytest.raises(OSError, match="File too large"):
            await append(part, [DATA[1000:100_000], DATA[100_000:]])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (part.frontier, await part.matches(), part.hashed) == (1000, False, 1000)
    await append(part, [DATA[1000:]])
    assert await part.matches()
    assert part.path.read_bytes() == DATA
