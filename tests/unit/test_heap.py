"""Memory that a crowd left behind goes back to the system."""

import asyncio
import subprocess
import sys
from dataclasses import dataclass

import pytest

from proxy.heap import LOOK_EVERY_S, SLACK, keep_small
from proxy.store.threads import Threads
from tests.house.source import ROOT

# In a process of its own: holes that others left in this one's heap would take the small things.
CROWD = """
import os
from proxy.heap import allocator
from tests.support.leaks import Footprint
MIB, heap = 1 << 20, allocator()
bytes(2 * MIB)  # freed once, buffers of this size come from the heap from then on
kept, buffers = [], []
for number in range(32):
    buffers.append(b"b" * MIB)
    kept.append(bytes(64 * 1024 + number))
buffers.clear()
free, held = heap.free_bytes(), Footprint.of(os.getpid()).resident_bytes
heap.trim()
print(free // MIB, (held - Footprint.of(os.getpid()).resident_bytes) // MIB, len(kept))
"""


def test_what_buffers_leave_between_small_things_is_given_back() -> None:
    """The small ones live on, and hold no more pages than their own."""
    told = subprocess.run([sys.executable, "-c", CROWD], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    free, given_back, kept = map(int, told.split())
    assert (free > 24, given_back > 24, kept) == (True, True, 32)


@dataclass
class Fake:
    """An allocator with so much free."""

    free: int
    trims: int = 0

    def free_bytes(self) -> int:
        return self.free

    def trim(self) -> None:
        self.trims += 1
        self.free = 0


@pytest.mark.parametrize(("free", "trims"), [(SLACK, 0), (SLACK + 1, 1)])
async def test_only_what_is_beyond_the_slack_is_worth_it(free: int, trims: int) -> None:
    """Looked at every few seconds; what the next buffers will need anyway stays."""
    heap, slept = Fake(free), list[float]()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise asyncio.CancelledError

    async with Threads() as threads:
        with pytest.raises(asyncio.CancelledError):
            await keep_small(heap, threads, sleep)
    assert (heap.trims, slept) == (trims, [LOOK_EVERY_S] * 3)


async def test_another_c_library_is_left_alone() -> None:
    """Nothing is looked at, and nothing runs."""

    async def sleep(seconds: float) -> None:
        raise AssertionError(seconds)

    async with Threads() as threads:
        await keep_small(None, threads, sleep)
