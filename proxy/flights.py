"""One running call per key: callers share its result, and a caller who leaves does not end it.

Invariant: a key is in the table exactly while its task runs, so a late caller never gets an old result.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from proxy.tasks import Tasks

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Flights(Generic[Key, Value]):
    """Single flight for coroutines, after groupcache's `singleflight`, without its two faults (see `fly`)."""

    def __init__(self, tasks: Tasks, name: str) -> None:
        self._tasks = tasks
        self._name = name
        self._running: dict[Key, asyncio.Task[Value]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def running(self, key: Key) -> bool:
        return key in self._running

    async def landed(self) -> None:
        """Wait until no call runs; their errors are their callers'."""
        while self._running:
            await asyncio.wait(list(self._running.values()))
            await asyncio.sleep(0)  # they leave the table one turn after they end

    async def fly(self, key: Key, call: Callable[[], Awaitable[Value]]) -> Value:
        """The result of the running call for `key`, started now if there is none; its error reaches every caller.

        The call belongs to this table: no caller's cancellation reaches it, and it always leaves the table.
        """
        return await asyncio.shield(self.start(key, call))

    def start(self, key: Key, call: Callable[[], Awaitable[Value]]) -> "asyncio.Task[Value]":
        """Look and enter in one step: the running task for `key`, or a new one. Its error is no caller's duty."""
        task = self._running.get(key)
        if task is None:
            task = self._tasks.start(self._run(key, call), name=f"{self._name} {key}", report=False)
            self._running[key] = task
            task.add_done_callback(lambda done: self._landed(key, done))
        return task

    async def _run(self, key: Key, call: Callable[[], Awaitable[Value]]) -> Value:
        try:
            return await call()
        finally:
            del self._running[key]  # not in the callback: that runs a turn later, and a caller may come in between

    def _landed(self, key: Key, task: "asyncio.Task[Value]") -> None:
        if self._running.get(key) is task:
            del self._running[key]  # cancelled before its first step
        if not task.cancelled():
            task.exception()  # marks it as seen: with every caller gone, nobody is left to raise it to
