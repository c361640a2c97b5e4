"""The store's own threads: bounded pools for disk work, for hashing, and one thread for what may wait for everybody.

The loop's default executor is never used.
A slow disk then holds up disk work only, never name look-ups or the event loop. Work once asked for is done to its
end: a caller who is cancelled leaves it running, so no file is left half written by a client that went away.
"""

import asyncio
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar, TypeVarTuple

Value = TypeVar("Value")
Args = TypeVarTuple("Args")

DISK_THREADS: Final = 8
ANSWER_WITHIN_S: Final = 5.0  # a client that waits longer for a disk is better served by the upstream
REHASH_THREADS: Final = 2
HASH_THREADS: Final = 2  # sha256 releases the GIL: two threads gave 3.0 GB/s, more only fight for cores


LOWEST: Final = 19  # nice; schedulers derive a thread's I/O priority from it (ioprio_set(2))


class Threads:
    """Four pools. `async with Threads() as threads:` waits for their work on the way out."""

    def __init__(
        self, disk: int = DISK_THREADS, hashing: int = HASH_THREADS, *, answer_within_s: float = ANSWER_WITHIN_S
    ) -> None:
        self.answer_within_s = answer_within_s
        self.disk_pool = ThreadPoolExecutor(disk, thread_name_prefix="disk")
        self.hash_pool = ThreadPoolExecutor(hashing, thread_name_prefix="hash")
        # Not the hash pool: a disk that hangs must not hold up the hash of what is in memory and needs no disk.
        self.rehash_pool = ThreadPoolExecutor(REHASH_THREADS, thread_name_prefix="rehash")
        self.last_pool = ThreadPoolExecutor(1, thread_name_prefix="last", initializer=_step_back)
        self._running: set[asyncio.Future[Any]] = set()
        self._disk_threads = disk
        self._asked = 0  # disk jobs that run or wait
        self._is_silent = False  # one was not answered in time, and none has ended since

    @property
    def hangs(self) -> bool:
        """Whether the disk gives no answer at all: every thread waits for it, and has for as long as a client would."""
        return self._is_silent and self._asked >= self._disk_threads

    async def disk(
        self,
        work: Callable[[*Args], Value],
        *args: *Args,
        unclaimed: Callable[[Value], object] | None = None,
        then: Callable[["asyncio.Future[Value]"], object] | None = None,
    ) -> Value:
        """Run `work(*args)` in the disk pool. `unclaimed` gets its result if the caller was cancelled meanwhile; `then`
        hears on the event loop how it ended, in any case, before the caller does.
        """

        def ended(done: "asyncio.Future[Value]") -> None:
            self._asked -= 1
            self._is_silent = False
            if then is not None:
                then(done)

        self._asked += 1
        return await self._run(self.disk_pool, lambda: work(*args), unclaimed, ended)

    async def soon(
        self,
        work: Callable[[*Args], Value],
        *args: *Args,
        patience: float = 1.0,
        unclaimed: Callable[[Value], object] | None = None,
    ) -> Value:
        """As `disk`, for what a client waits for: TimeoutError, which is an OSError, when the disk gives no answer for
        `patience` times `answer_within_s`, and at once while it hangs. Work that has begun goes on.
        """
        self.must_answer()
        within_s = self.answer_within_s * patience
        try:
            async with asyncio.timeout(within_s):
                return await self.disk(work, *args, unclaimed=unclaimed)
        except TimeoutError as cause:
            self._is_silent = True
            raise TimeoutError(errno.ETIMEDOUT, f"the disk gave no answer within {within_s:g} s") from cause

    def must_answer(self) -> None:
        """Raise TimeoutError while the disk hangs: what waits in a queue that does not move is no use to anybody.

        Asked before what only the work itself would close is opened for `soon`.
        """
        if self.hangs:
            raise TimeoutError(errno.ETIMEDOUT, "the disk gives no answer")

    async def hash(self, work: Callable[[*Args], Value], *args: *Args) -> Value:
        """Run `work(*args)` in the hash pool: it hashes what is in memory."""
        return await self._run(self.hash_pool, lambda: work(*args))

    async def rehash(self, work: Callable[[*Args], Value], *args: *Args) -> Value:
        """Run `work(*args)` in a pool for work that hashes what it reads."""
        return await self._run(self.rehash_pool, lambda: work(*args))

    async def last(self, work: Callable[[*Args], Value], *args: *Args) -> Value:
        """Run `work(*args)` in the one thread that goes behind all others: for work that nobody waits for."""
        return await self._run(self.last_pool, lambda: work(*args))

    async def _run(
        self,
        pool: Executor,
        work: Callable[[], Value],
        unclaimed: Callable[[Value], object] | None = None,
        ended: Callable[["asyncio.Future[Value]"], object] | None = None,
    ) -> Value:
        future = asyncio.wrap_future(pool.submit(work))
        if ended is not None:
            future.add_done_callback(ended)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(lambda done: _settle(done, unclaimed))
            raise

    async def close(self) -> None:
        """Wait for all work, then end the threads."""
        while self._running:
            await asyncio.wait(list(self._running))
        self.disk_pool.shutdown()
        self.hash_pool.shutdown()
        self.rehash_pool.shutdown()
        self.last_pool.shutdown()

    async def __aenter__(self) -> "Threads":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _step_back() -> None:
    with suppress(OSError):  # a kernel that knows no priority per thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST)


def _settle(done: "asyncio.Future[Value]", unclaimed: Callable[[Value], object] | None) -> None:
    # Asking for the exception marks it as seen: nobody is left to raise it to.
    if not done.cancelled() and done.exception() is None and unclaimed is not None:
        unclaimed(done.result())
