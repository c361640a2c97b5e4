"""The leak check finds what it is there to find; canaries sing."""

import asyncio
import gc
import os
import subprocess
import weakref
from pathlib import Path

import aiohttp
import pytest

from proxy.tasks import Tasks
from tests.support.leaks import Canaries, Footprint, Leaks, check_loop


async def test_a_pending_task_is_a_leak() -> None:
    """A task that still waits is named; once it has ended, all is quiet."""
    async with Tasks() as tasks:
        tasks.start(asyncio.Event().wait(), name="left behind")
        with pytest.raises(AssertionError, match="left behind"):
            await check_loop()
    await check_loop()


async def test_an_open_session_is_a_leak() -> None:
    """A client session that nobody closed is found."""
    async with aiohttp.ClientSession():
        with pytest.raises(AssertionError, match="sessions left open"):
            await check_loop()
    await check_loop()


async def test_what_a_test_dropped_is_collected() -> None:
    """A dropped cycle warns now, not in a later test: also one that has seen collections while it was in use."""

    class Knot:
        def __init__(self) -> None:
            self.me = self

    knots = [Knot() for _ in range(3)]
    dropped = [weakref.ref(knot) for knot in knots]
    for generation in (0, 0):
        gc.collect(generation)
    knots.clear()
    assert all(found() is not None for found in dropped)
    await check_loop()
    assert [found() for found in dropped] == [None] * 3


def test_a_child_process_is_a_leak() -> None:
    """A child that still runs is named by its command; one that was there before is not."""
    ledger = Leaks()
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"here\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"here\n"  # from here on it is cat, no longer a fork of this process
        with pytest.raises(AssertionError, match="'cat'"):
            ledger.check()
        Leaks().check()
    ledger.check()


def test_a_part_file_is_a_leak(tmp_path: Path) -> None:
    """A part below a watched cache directory is found, unless the test keeps it on purpose."""
    ledger = Leaks()
    ledger.watch(tmp_path)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/sha256-00.part").touch()
    with pytest.raises(AssertionError, match=r"sha256-00\.part"):
        ledger.check()
    ledger.allow_parts(tmp_path)
    ledger.check()


def test_a_canary_is_found_wherever_it_is(tmp_path: Path) -> None:
    """In text, in bytes and in files below a folder; a text without it passes."""
    canaries = Canaries()
    with pytest.raises(AssertionError, match="cannot fail"):
        canaries.assert_absent("nothing was planted")
    secret = canaries.secret("hub")
    assert canaries.secret("hub") == secret
    canaries.assert_absent("password=***")
    (tmp_path / "log").write_text(f"password={secret}")
    with pytest.raises(AssertionError, match="hub"):
        canaries.assert_absent(f"token {secret}".encode())
    with pytest.raises(AssertionError, match="hub"):
        canaries.assert_absent_below([tmp_path])


async def test_a_footprint_counts_files() -> None:
    """A pipe is two open files more; sizes are those of a live process."""
    before = Footprint.here()
    ends = os.pipe()
    assert Footprint.here().files == before.files + 2
    for end in ends:
        os.close(end)
    assert before.tasks == 1
    assert before.peak_bytes >= before.resident_bytes // 2 > 0
