"""The hash of a growing file, always a little behind what is written: readers wait for the write, never for the hash.

Received buffers are hashed in the order of the file, in turns of whatever has gathered; what came out of order, or was
here before this process, is read back once the hash gets there (from the page cache, mostly).
Invariant: at most one turn runs, so the hash sees each byte once and in order.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Final

from proxy.downloads.window import Window
from proxy.oci import Digest
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from proxy.upstream.base import Buffer

TURN: Final = 4 << 20  # bytes read back in one turn: bounds how long a hash thread is held
READ: Final = 1 << 20


class Trail:
    """Hashes the file that `share` opens anew at each call. `hashed` is how far it came from the start."""

    def __init__(
        self, digest: Digest, threads: Threads, tasks: Tasks, share: Callable[[], int], window: Window
    ) -> None:
        self.hashed = 0
        self._digest = digest
        self._hash = digest.hasher()
        self._threads = threads
        self._tasks = tasks
        self._share = share
        self._window = window
        self._ready: list[Buffer] = []  # written, and next in order
        self._reach = 0  # where the hash will stand when the running turn and what is ready are done
        self._goal = 0
        self._turning: asyncio.Task[None] | None = None
        self._failed: OSError | None = None

    def follow(self, offset: int, chunks: Sequence[Buffer], goal: int) -> None:
        """`chunks` were written at `offset`, and the file is whole up to `goal`. Plain: the hash follows behind."""
        self._goal = goal
        if offset == self._reach and self._failed is None:
            self._ready += chunks
            self._reach += sum(map(len, chunks))
        else:
            self._free(chunks)
        self._start()

    async def caught_up(self, goal: int) -> None:
        """Wait until the hash has seen the first `goal` bytes. OSError: the file cannot be read back."""
        self._goal = max(goal, self._goal)
        while self.hashed < goal:
            self._start()
            if self._turning is not None:
                await asyncio.shield(self._turning)
            if self._failed is not None:
                raise self._failed

    def matches(self) -> bool:
        """Whether what was hashed so far is the whole of the digest's content."""
        return self._hash.hexdigest() == self._digest.encoded

    async def stop(self) -> None:
        """Wait for the running turn; after it nothing more is hashed, and no buffer is held."""
        self._failed = self._failed or OSError("the hash was stopped")
        if self._turning is not None:
            await asyncio.shield(self._turning)
        self._free(self._ready)
        self._ready = []

    def _start(self) -> None:
        if self._turning is None and self._failed is None and (self._ready or self.hashed < self._goal):
            self._turning = self._tasks.start(self._turns(), name="hash", report=False)

    async def _turns(self) -> None:
        try:
            while self._failed is None and (self._ready or self.hashed < self._goal):
                await self._turn()
        except OSError as error:  # raised to who waits for the digest, and only then
            self._failed = error
            self._free(self._ready)  # nobody will hash them: who waits for room in the window must not wait for ever
            self._ready = []
        finally:
            self._turning = None

    async def _turn(self) -> None:
        if self._ready:
            chunks, self._ready = self._ready, []
            await self._threads.hash(self._take_in, chunks)
            self.hashed += sum(map(len, chunks))
            self._free(chunks)
            return
        end = self._reach = min(self.hashed + TURN, self._goal)
        await self._threads.rehash(self._read_back, self._share(), self.hashed, end)
        self.hashed = end

    def _take_in(self, chunks: Sequence[Buffer]) -> None:
        for chunk in chunks:
            self._hash.update(chunk)

    def _read_back(self, descriptor: int, offset: int, end: int) -> None:
        try:
            while offset < end:
                data = os.pread(descriptor, min(READ, end - offset), offset)
                if not data:
                    raise OSError("the part is shorter than what was written to it")
                self._hash.update(data)
                offset += len(data)
        finally:
            os.close(descriptor)

    def _free(self, chunks: Sequence[Buffer]) -> None:
        for chunk in chunks:
            self._window.free(chunk)
