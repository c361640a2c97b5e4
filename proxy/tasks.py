"""The only place that starts a background task: named, kept, its failure reported, ended at stop.

The event loop keeps weak references only (asyncio docs, "Creating Tasks"), so a task nobody keeps may vanish.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from proxy.log import logger

Value = TypeVar("Value")
log = logger("tasks")


class Tasks:
    """A set of background tasks with one owner. `async with Tasks() as tasks:` ends them all on the way out."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, Value], *, name: str, report: bool = True) -> asyncio.Task[Value]:
        """Start `work` in the background. With `report`, an exception it ends with is logged once."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended if report else self._running.discard)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed", task=task.get_name(), error=repr(error), exc_info=error)

    async def stop(self) -> None:
        """Cancel every task and wait until each has really ended; tasks they start meanwhile are ended too."""
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(list(self._running))
            await asyncio.sleep(0)  # done callbacks run one turn later

    async def __aenter__(self) -> "Tasks":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
