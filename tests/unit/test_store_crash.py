"""The N-th call fails, the process is killed at it, or the power goes: the store stays whole for every N (A01, A04)."""

import asyncio
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.errors import StoreRefused
from proxy.oci import Digest
from tests.support.crash import BODIES, check, live
from tests.support.faulty import FaultyFilesystem, LossyFilesystem, io_error, no_space

ROOT = Path(__file__).resolve().parents[2]
END = re.compile(r"[0-9]+ [0-9]+")  # how a life ended, among the lines of its log
LEAST_CALLS = 80  # fewer would mean that the sweep no longer reaches the commit path
SAMPLE = 20  # calls of each kind of sweep in the gate
HOW_MANY = [pytest.param(SAMPLE, id="a sample"), pytest.param(None, id="every call", marks=pytest.mark.long)]


async def calls_of(root: Path, count: int | None) -> list[int]:
    """The numbers of the calls to be hit: every one of a life, or so many of them by chance; the seed is printed."""
    files = FaultyFilesystem()
    await live(root, files, [])
    every = range(1, len(files.steps) + 1)
    assert len(every) > LEAST_CALLS
    if count is None:
        return list(every)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    return sorted(random.Random(seed).sample(every, count))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", HOW_MANY)
@pytest.mark.parametrize("fault", [io_error, no_space])
@pytest.mark.parametrize("sticky", [False, True], ids=["once", "from then on"])
async def test_a_failing_disk_leaves_a_whole_store(
    tmp_path: Path, fault: Callable[[], None], sticky: bool, count: int | None
) -> None:
    """EIO or ENOSPC at any call, once or for good: nothing partial is seen, the next start works (F01, F03, F06)."""
    for at in await calls_of(tmp_path / "untouched", count):
        files, told, root = FaultyFilesystem(at, fault, sticky=sticky), list[Digest](), tmp_path / str(at)
        with suppress(OSError, StoreRefused):
            await live(root, files, told)
        assert files.was_hit
        await check(root, told)
    await check(tmp_path / "untouched", list(BODIES))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", HOW_MANY)
@pytest.mark.parametrize("names", [False, True], ids=["bytes are lost", "names are lost"])
async def test_a_power_cut_leaves_a_whole_store(tmp_path: Path, names: bool, count: int | None) -> None:
    """Everything not synced is gone after the cut: what was acknowledged is whole all the same (F02)."""
    for at in await calls_of(tmp_path / "untouched", count):
        files, told, root = LossyFilesystem(at), list[Digest](), tmp_path / str(at)
        with suppress(OSError, StoreRefused):
            await live(root, files, told)
        files.cut(root, names=names)
        await check(root, told, boot_id="boot-2")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", HOW_MANY)
async def test_a_killed_server_leaves_a_whole_store(tmp_path: Path, count: int | None) -> None:
    """SIGKILL before any call: the lock is free, nothing partial is seen, the next start works (F01, I10)."""
    calls = await calls_of(tmp_path / "untouched", count)
    command = [sys.executable, "-m", "tests.support.crash", str(tmp_path), *map(str, calls)]
    lives = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=True)
    ends = [line for line in lives.stdout.splitlines() if END.fullmatch(line)]
    assert ends == [f"{at} {signal.SIGKILL.value}" for at in calls]
    for at in calls:
        await check(tmp_path / str(at), [])
