"""The looks that health takes at the member itself: its directory, its disk, its loop."""

import asyncio
import errno
import os
from dataclasses import replace
from typing import Any

import pytest

from proxy.health import Look, LoopLag
from proxy.health.judge import Looked
from proxy.health.look import look_at_files
from proxy.store.opened import open_disk
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from tests.support.clock import Clock
from tests.support.healthy import credentials
from tests.support.leaks import Canaries


async def test_a_look_at_a_good_directory_finds_no_trouble(cache_dir: Any, clock: Clock, canaries: Canaries) -> None:
    """It tells the room there is, names no trouble and no secret, and leaves no file behind."""
    async with open_disk(cache_dir) as disk, Tasks() as tasks:
        look = Look(disk, credentials, {"TEAM": canaries.secret("team")}, tasks, clock=clock)
        found = await look()
        assert replace(found, free_bytes=None, total_bytes=None) == Looked()
        assert 0 < (found.free_bytes or 0) < (found.total_bytes or 0)
        assert os.listdir(disk.parts) == []
        canaries.assert_absent(repr(found))
        assert (await Look(disk, credentials, {}, tasks, clock=clock)()).secrets == {
            "team": "environment variable TEAM is not set or empty"
        }


async def test_a_look_finds_a_directory_that_is_gone(cache_dir: Any, clock: Clock) -> None:
    """Parts that cannot be written degrade; blobs that cannot be listed fail."""
    async with open_disk(cache_dir) as disk, Tasks() as tasks:
        look = Look(disk, dict, {}, tasks, clock=clock)
        disk.parts.rename(cache_dir / "gone")
        assert (await look()).unwritable == os.strerror(errno.ENOENT)
        (cache_dir / "blobs").rename(cache_dir / "gone too")
        assert (await look()).unreadable == os.strerror(errno.ENOENT)


async def test_a_planted_link_is_not_written_through(cache_dir: Any) -> None:
    """The probe's name is a file's, or it is trouble."""
    async with open_disk(cache_dir) as disk:
        (disk.parts / "health.probe").symlink_to(cache_dir / "victim")
        assert look_at_files(cache_dir).unwritable == os.strerror(errno.ELOOP)
        assert not (cache_dir / "victim").exists()
        (disk.parts / "health.probe").unlink()


class Hung(Threads):
    """Threads whose disk work never ends."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def disk(self, *_work: object, **_unclaimed: object) -> Any:
        self.asked += 1
        await asyncio.Event().wait()


async def test_a_disk_that_hangs_is_found_and_asked_once(cache_dir: Any, clock: Clock) -> None:
    """No thread is given to a second look while the first one hangs."""
    hung = Hung()
    async with open_disk(cache_dir) as disk, hung, Tasks() as tasks:
        look = Look(replace(disk, threads=hung), dict, {}, tasks, clock=clock, within_s=0.01)
        for _ in range(3):
            assert (await look()).unreadable == "no answer within 0.01 s"
        assert hung.asked == 2  # the files once, the secrets once


async def test_loop_lag_is_the_worst_of_late(clock: Clock) -> None:
    """How much later than asked the loop woke, the worst of the last naps."""
    lag = LoopLag(monotonic=clock)
    late = iter([0.0, 0.25, 0.0])

    async def pause(seconds: float) -> None:
        clock.advance(seconds + next(late))

    with pytest.raises(RuntimeError):  # the naps ran out
        await lag.run(pause)
    assert lag.worst_s == pytest.approx(0.25)
