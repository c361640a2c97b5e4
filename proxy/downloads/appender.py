"""Writes what was received, batch after batch, while more is being received.

Invariant: whatever was fed is written without waiting for the next chunk, since the next one may not come for long.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from proxy.downloads.part import Part
from proxy.tasks import Tasks

WINDOW: Final = 2 << 20  # bytes received but not yet written: bounds memory, and what a kill loses


class Appender:
    """One answer's way into the part; `grown` is told after each batch. Catches the hash up where it is behind."""

    def __init__(self, part: Part, tasks: Tasks, grown: Callable[[], None]) -> None:
        self._part = part
        self._tasks = tasks
        self._grown = grown
        self._batch: list[bytes] = []
        self._writing: asyncio.Task[None] | None = None
        self._idle = True
        self._catching: asyncio.Task[None] | None = None
        self.waiting = 0  # bytes fed and not yet written

    async def feed(self, chunk: bytes) -> None:
        """Take a chunk; waits while WINDOW bytes are ahead of the disk. OSError: the disk refused an earlier one."""
        self._batch.append(chunk)
        self.waiting += len(chunk)
        if self._idle:
            await self._join()
            self._idle = False
            self._writing = self._tasks.start(self._write(), name="append", report=False)
        elif self.waiting >= WINDOW:
            await self._join()

    async def flush(self) -> None:
        """Wait until everything fed is written. OSError: the disk refused."""
        while self._batch or self._writing is not None:
            if self._writing is None:
                self._idle = False
                self._writing = self._tasks.start(self._write(), name="append", report=False)
            await self._join()

    async def caught_up(self) -> None:
        """Wait until the hash has seen every written byte."""
        if self._catching is not None:
            catching, self._catching = self._catching, None
            await catching
        await self._part.catch_up()

    async def _join(self) -> None:
        if self._writing is not None:
            writing = self._writing
            await asyncio.shield(writing)
            if self._writing is writing:
                self._writing = None

    async def _write(self) -> None:
        try:
            while self._batch:
                batch, self._batch = self._batch, []
                await self._part.append(batch)
                self.waiting -= sum(map(len, batch))
                self._grown()
                if self._part.behind and (self._catching is None or self._catching.done()):
                    self._catching = self._tasks.start(self._part.catch_up(), name="catch up", report=False)
        finally:
            self._idle = True
