"""Writes what was received, batch after batch, while more is being received.

Invariant: whatever was fed is written without waiting for the next chunk, since the next one may not come for long.
"""

import asyncio
from collections.abc import Callable

from proxy.downloads.part import Part
from proxy.errors import NotKept
from proxy.tasks import Tasks
from proxy.upstream.base import Buffer


class Appender:
    """One answer's way into the part, from `offset` on; `grown` is told after each batch."""

    def __init__(self, part: Part, offset: int, tasks: Tasks, grown: Callable[[], None]) -> None:
        self._part = part
        self._tasks = tasks
        self._grown = grown
        self._batch: list[Buffer] = []
        self._written = offset
        self._writing: asyncio.Task[None] | None = None

    async def feed(self, chunk: Buffer) -> None:
        """Take a chunk; waits for room in the part's window. OSError: the disk refused an earlier one."""
        self._raise()
        self._batch.append(chunk)
        self._part.window.hold(chunk)
        self._start()
        await self._part.window.room()

    async def flush(self) -> None:
        """Wait until everything fed is written. OSError: the disk refused."""
        while self._writing is not None and not self._writing.done():
            await asyncio.shield(self._writing)
        self._raise()

    def _start(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = self._tasks.start(self._write(), name="append", report=False)

    def _raise(self) -> None:
        if self._writing is not None and self._writing.done():
            self._writing.result()

    async def _write(self) -> None:
        # Everything that came while the last batch was written makes the next one: large when the disk is slow.
        while self._batch:
            batch, self._batch = self._batch, []
            try:
                await self._part.write(self._written, batch)
            except (OSError, NotKept):
                for chunk in (*batch, *self._batch):
                    self._part.window.free(chunk)
                self._batch = []
                raise
            self._written += sum(map(len, batch))
            self._grown()
