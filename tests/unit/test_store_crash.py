"""The N-th call fails, the process is killed at it, or the power goes: the store stays whole for every N (A01, A04)."""

import asyncio
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
LEAST_CALLS = 50  # fewer would mean that the sweep no longer reaches the commit path


@pytest.mark.parametrize("fault", [io_error, no_space])
@pytest.mark.parametrize("sticky", [False, True], ids=["once", "from then on"])
async def test_a_failing_disk_leaves_a_whole_store(tmp_path: Path, fault: Callable[[], None], sticky: bool) -> None:
    """EIO or ENOSPC at any call, once or for good: nothing partial is seen, the next start works (F01, F03, F06)."""
    for at in range(1, 1000):
        files, told, root = FaultyFilesystem(at, fault, sticky=sticky), list[Digest](), tmp_path / str(at)
        with suppress(OSError, StoreRefused):
            await live(root, files, told)
        await check(root, told)
        if not files.was_hit:
            break
    assert at > LEAST_CALLS
    assert told == list(BODIES)


@pytest.mark.parametrize("names", [False, True], ids=["bytes are lost", "names are lost"])
async def test_a_power_cut_leaves_a_whole_store(tmp_path: Path, names: bool) -> None:
    """Everything not synced is gone after the cut: what was acknowledged is whole all the same (F02)."""
    for at in range(1, 1000):
        files, told, root = LossyFilesystem(at), list[Digest](), tmp_path / str(at)
        with suppress(OSError, StoreRefused):
            await live(root, files, told)
        if not files.was_hit:
            break
        files.cut(root, names=names)
        await check(root, told, boot_id="boot-2")
    assert at > LEAST_CALLS
    assert told == list(BODIES)


async def test_a_killed_server_leaves_a_whole_store(tmp_path: Path) -> None:
    """SIGKILL before any call: the lock is free, nothing partial is seen, the next start works (F01, I10)."""
    command = [sys.executable, "-m", "tests.support.crash", str(tmp_path)]
    lives = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=True)
    ends = lives.stdout.splitlines()
    assert ends == [*(f"{at} {signal.SIGKILL.value}" for at in range(1, len(ends))), "whole"]
    assert len(ends) > LEAST_CALLS
    for at in range(1, len(ends)):
        await check(tmp_path / str(at), [])
    await check(tmp_path / str(len(ends)), list(BODIES))
