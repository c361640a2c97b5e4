"""Where a server's log lines go: a bounded buffer, emptied to a file descriptor by a thread of its own.

Nobody who logs waits for whoever reads the log: a full pipe or a slow disk costs lines, never a pull. Lines that found
no room are counted, and the count is told as soon as there is room again. Invariant: lines keep their order, no other
process that shares the pipe comes between the bytes of one (of up to PIPE_BUF, pipe(7)), and `close` returns
when all that was taken has been handed to the kernel, or the reader of the log has stood still for `CLOSE_S`.
"""

import io
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

MOST_BYTES: Final = 4 << 20  # some 12 000 lines of requests wait; as many again may be on their way out
LINGER_S: Final = 0.02  # lines of so long leave together: a write to the kernel for each costs more than making it
CLOSE_S: Final = 2.0
BATCH: Final = 1 << 20  # bytes per write, so that a big batch does not wait for itself


class Sink(io.RawIOBase):
    """A writable byte stream over `descriptor`, which stays open. `told_lost(count)` makes the line that tells how
    many were lost. Any thread may write; another process only if it `is_shared`.
    """

    def __init__(
        self,
        descriptor: int,
        told_lost: Callable[[int], bytes],
        *,
        most_bytes: int = MOST_BYTES,
        is_shared: bool = False,
    ) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._told_lost = told_lost
        self._most = most_bytes
        self._is_shared = is_shared
        self._lock = threading.Lock()
        # One growing buffer, not a list of lines: some hundred small objects that live for 20 ms push what every
        # request needs out of the processor's cache, which cost 6 us a line (measured).
        self._waiting = bytearray()
        self._lost = 0
        self._filled = threading.Event()  # there is something to write, or nothing will come any more
        self._ending = threading.Event()
        self._give_up_at = float("inf")
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Take a whole line, or lose it when `most_bytes` wait already."""
        length = len(data)
        with self._lock:
            waiting = self._waiting
            before = len(waiting)
            if before + length > self._most:
                self._lost += 1
                return length
            waiting += data
        if not before:
            self._filled.set()
        return length

    def close(self) -> None:
        """Hand everything to the kernel and end the thread; lines written later are lost."""
        if self.closed:
            return
        self._give_up_at = time.monotonic() + CLOSE_S
        self._ending.set()
        self._filled.set()
        self._thread.join(CLOSE_S + 1.0)
        super().close()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._filled.wait()
            self._ending.wait(LINGER_S)
            self._filled.clear()
            self._hand_over(self._take())
        self._hand_over(self._take())

    def _take(self) -> bytearray:
        with self._lock:
            taken, lost = self._waiting, self._lost
            self._waiting, self._lost = bytearray(), 0
        if lost:
            taken += self._told_lost(lost)
        return taken

    def _hand_over(self, data: bytearray) -> None:
        """Write all of it. What a broken descriptor does not take is gone: there is nowhere to tell."""
        at = 0
        while at < len(data):
            try:
                _, ready, _ = select.select([], [self._descriptor], [], 0.2)
                if ready:
                    at += os.write(self._descriptor, data[at : self._end_of_write(data, at)])
                elif time.monotonic() > self._give_up_at:
                    return
            except BlockingIOError:
                continue
            except OSError:
                return

    def _end_of_write(self, data: bytearray, at: int) -> int:
        """Where the lines end that leave in one write: a large one, or as many as PIPE_BUF holds, a longer one alone.

        Those small ones take an eighth of what a hot manifest costs (measured): for a pipe that is shared only.
        """
        if not self._is_shared:
            return at + BATCH
        if len(data) - at <= select.PIPE_BUF:
            return len(data)
        end = data.rfind(b"\n", at, at + select.PIPE_BUF)
        return 1 + (end if end >= 0 else data.find(b"\n", at)) or len(data)


class Loose(io.RawIOBase):
    """A writable byte stream over `descriptor` for a process that has no thread to spare: what the descriptor does not
    take at once is lost.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Write a line, or lose it. A pipe that can be written to takes 4 KiB without waiting."""
        with suppress(OSError):
            if select.select([], [self._descriptor], [], 0)[1]:
                os.write(self._descriptor, data[: select.PIPE_BUF])
        return len(data)
