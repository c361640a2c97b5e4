"""Gives memory back that is free, and still held by the process: C's allocator keeps what a crowd's buffers leave.

Bodies pass through buffers of up to a MiB each. When they are gone their pages stay, between small things that are
younger: a soak in a cache too small for its content had 15.5 MiB in use and held 37, and never gave the rest back
(glibc; `python -m tests.soak --seconds 150 --seed 7 --max-size 24`). It is asked to from time to time. A C library
that has no such call (musl keeps less) is left alone.
"""

import ctypes
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

from proxy.store.threads import Threads

LOOK_EVERY_S: Final = 5.0
M_ARENA_MAX: Final = -8  # malloc.h
SLACK: Final = 8 << 20  # bytes that may stay free and held: the next buffers come from there


FIELDS: Final = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
)  # fmt: skip


class Allocator(Protocol):
    """What a C library tells and does."""

    def free_bytes(self) -> int:
        """What is held, and in nobody's use."""

    def trim(self) -> None:
        """Give whole pages of it back to the system: under a millisecond for 20 MiB (measured)."""


class _Info(ctypes.Structure):
    """`struct mallinfo2` of malloc.h."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in FIELDS)


class Glibc:
    """The allocator of glibc 2.33 and later; raises AttributeError where the C library is another one."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._info, self._trim = library.mallinfo2, library.malloc_trim
        self._info.restype, self._info.argtypes = _Info, []
        self._trim.restype, self._trim.argtypes = ctypes.c_int, [ctypes.c_size_t]

    def free_bytes(self) -> int:
        return int(self._info().fordblks)

    def trim(self) -> None:
        self._trim(0)


def allocator() -> Allocator | None:
    """This process's, None if it can give nothing back."""
    try:
        return Glibc()
    except (AttributeError, OSError):
        return None


def share_one_arena() -> None:
    """Let every thread allocate in one place; to be called before there are any.

    glibc gives each thread a place of its own, eight for each core, and what a body's buffers leave in one is of no use
    in another: a cold pull by nine clients grew a fresh server by 12 MiB, and grows it by 5 to 8 now. Threads that
    hold the interpreter's lock do not contend for the allocator's.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)


async def keep_small(heap: Allocator | None, threads: Threads, sleep: Callable[[float], Awaitable[None]]) -> None:
    """Give back what is free beyond SLACK, every LOOK_EVERY_S, until cancelled."""
    while heap is not None:
        await sleep(LOOK_EVERY_S)
        if heap.free_bytes() > SLACK:
            await threads.disk(heap.trim)
