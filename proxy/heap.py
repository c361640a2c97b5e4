"""Gives memory back that is free, and still held by the process: C's allocator keeps what a crowd's buffers leave.

Bodies pass through buffers of up to a MiB each. When they are gone their pages stay, between small things that are
younger: a soak in a cache too small for its content had 15.5 MiB in use and held 37, and never gave the rest back
(glibc; `python -m tests.soak --seconds 150 --seed 7 --max-size 24`). It is asked to from time to time. A C library
that has no such call (musl keeps less) is left alone. Tried too: one place for all threads to allocate in. It gave less
growth, and cost a hot manifest a tenth (0.74 of a bare handler's requests per CPU second, and 0.82 to 0.85 without).
"""

import ctypes
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from proxy.store.threads import Threads

LOOK_EVERY_S: Final = 5.0
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


async def keep_small(heap: Allocator | None, threads: Threads, sleep: Callable[[float], Awaitable[None]]) -> None:
    """Give back what is free beyond SLACK, every LOOK_EVERY_S, until cancelled."""
    while heap is not None:
        await sleep(LOOK_EVERY_S)
        if heap.free_bytes() > SLACK:
            await threads.disk(heap.trim)
