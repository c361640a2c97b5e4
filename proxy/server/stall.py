"""A client that takes nothing of its answer, told from one that is slow: the slow one is served, however long it takes.

What a client has taken is what its kernel has acknowledged: what we gave, but for what waits in our memory and in our
kernel. That is all of it, whichever way the bytes leave; a look costs a call of a microsecond.
"""

import asyncio
import fcntl
import struct
import termios
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

STALL_S: Final = 300.0  # containerd itself gives up after 5 minutes without progress
LOOK_S: Final = 10.0
COUNT: Final = struct.Struct("i")


def waiting(transport: asyncio.WriteTransport | None) -> tuple[int, int]:
    """How many bytes wait for the client in our memory, and how many in the kernel: sent, and not acknowledged yet."""
    if transport is None:
        return 0, 0
    try:
        descriptor = transport.get_extra_info("socket").fileno()
        unacknowledged = COUNT.unpack(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(COUNT.size)))[0]
    except (OSError, ValueError, AttributeError):  # closed, or no socket
        unacknowledged = 0
    return transport.get_write_buffer_size(), unacknowledged


@dataclass(frozen=True, slots=True)
class Patience:
    """A client may take nothing for `stall_s`; that is looked at every `look_s`."""

    stall_s: float = STALL_S
    look_s: float = LOOK_S
    monotonic: Callable[[], float] = time.monotonic

    @asynccontextmanager
    async def while_taken(self, taken: Callable[[], Hashable]) -> AsyncIterator[None]:
        """End what is awaited inside, by TimeoutError, once `taken` has told the same for `stall_s`."""
        loop, last, since = asyncio.get_running_loop(), taken(), self.monotonic()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal last, since, timer
            now, told = self.monotonic(), taken()
            if told != last:
                last, since = told, now
            elif now - since >= self.stall_s:
                limit.reschedule(loop.time())
                return
            timer = loop.call_later(self.look_s, look)

        async with asyncio.timeout(None) as limit:
            timer = loop.call_later(self.look_s, look)
            try:
                yield
            finally:
                timer.cancel()
