"""One SQLite file with one writing thread and one reading thread; queued writes share a transaction and its sync.

Knows SQL's manners, no table. WAL, `BEGIN IMMEDIATE`. Its faults leave as OSError, so nobody above knows of SQLite.
A write once asked for is done and reported in order, whether or not the caller still waits. A file that turns out
broken, at the start or in the middle of work, is replaced by its `Keeper`, and the work goes on.
"""

import asyncio
import os
import queue
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Final, Literal, TypeVar

from proxy.store.copies import SIDE_FILES, DatabaseBroken, check, connect, copy_whole, sqlite_faults
from proxy.store.filesystem import Filesystem, forget, size_of_file, sync_folder, write_new
from proxy.store.keeper import Keeper

Value = TypeVar("Value")
Row = tuple[Any, ...]

GROUP_MAX: Final = 256  # changes per transaction: bounds how long the first of them waits
# Checked whole before it is used; a larger file would hold up the start, and is checked behind it.
CHECK_FIRST: Final = 8 << 20

__all__ = ["Database", "DatabaseBroken", "Row"]


@dataclass(slots=True)
class Change:
    """One queued piece of work for the writing thread. `alone`: outside of any transaction; `entry`: for `note`."""

    work: Callable[[sqlite3.Connection], Any]
    future: "Future[Any]"
    alone: bool = False
    entry: Any = None


class Database:
    """An open file. Construct it in a disk thread (it blocks); `close` ends both threads."""

    def __init__(
        self,
        path: Path,
        schema: str,
        synchronous: Literal["FULL", "NORMAL"],
        files: Filesystem,
        keeper: Keeper | None = None,
    ) -> None:
        """Open or create. OSError: the disk failed."""
        self.path = path
        self.was_made = False  # the file knew nothing when it was opened last
        self.generation = 0  # how often it was opened
        self.inode = 0  # of the file that is open
        self.is_checked = False
        self.pending = 0  # changes asked for and not yet reported; read and written on the event loop only
        self._schema, self._synchronous = schema, synchronous
        self._files = files
        self._keeper = keeper or Keeper()
        self._using_reader = Lock()
        self._is_open = False
        self._writer: sqlite3.Connection
        self._reader: sqlite3.Connection
        self._open_or_replace()
        self._queue: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self._thread = Thread(target=self._write_all, name=f"{path.name} writer", daemon=True)
        self._thread.start()
        self._reading = ThreadPoolExecutor(1, thread_name_prefix=f"{path.name} reader")

    def _open_or_replace(self) -> None:
        try:
            self._open()
        except DatabaseBroken as error:
            self._keeper.replace(self.path, error)
            self._open()

    def _open(self) -> None:
        if not size_of_file(self.path):
            self._make()
        self._writer = connect(self.path, self._synchronous)
        try:
            self.is_checked = (size_of_file(self.path) or 0) <= CHECK_FIRST
            if self.is_checked:
                check(self._writer, self.path)
            with sqlite_faults(self.path.name):
                self._writer.executescript(self._schema)
                self._keeper.prepare(self._writer)
                if self.is_checked:
                    self._keeper.scan(self._writer)
            self._reader = connect(self.path, self._synchronous)
        except BaseException:
            self._writer.close()
            raise
        self.generation += 1
        self.inode = os.lstat(self.path).st_ino
        self._is_open = True
        sync_folder(self._files, self.path.parent)

    def _make(self) -> None:
        for side in ("", *SIDE_FILES):  # the log of a file that is gone must never be played into a new one
            forget(self._files, self.path.with_name(self.path.name + side))
        self._keeper.missing(self.path)
        self.was_made = not size_of_file(self.path)
        if self.was_made:
            forget(self._files, self.path)
            write_new(self._files, self.path, b"")  # SQLite gives its side files this one's mode, 0600

    async def read(self, query: str, values: Row = ()) -> list[Row]:
        """Every row of a query, as of the last commit. A file that is broken is replaced first."""
        return await self.parsed(query, values, lambda row: row)

    async def parsed(self, query: str, values: Row, parse: Callable[[Row], Value]) -> list[Value]:
        """As `read`, each row parsed in the reading thread: many rows are no work for the event loop. A row of which
        `parse` raises DatabaseBroken has the file replaced, too.
        """
        if not self._is_open:
            await self.alone(lambda _: None)
        generation = self.generation
        try:
            return await asyncio.wrap_future(self._reading.submit(self._read, query, values, parse))
        except DatabaseBroken as error:
            await self.mend(generation, error)
        return await asyncio.wrap_future(self._reading.submit(self._read, query, values, parse))

    def _read(self, query: str, values: Row, parse: Callable[[Row], Value]) -> list[Value]:
        with self._using_reader, sqlite_faults(self.path.name):
            rows = self._reader.execute(query, values).fetchall()
        return [parse(row) for row in rows]

    async def write(
        self,
        work: Callable[[sqlite3.Connection], Value],
        then: Callable[[Value], object] | None = None,
        entry: Any = None,
    ) -> Value:
        """Run `work` in a transaction, perhaps twice (so it must change nothing else); returns after the commit.

        `then` gets the result on the event loop, in commit order, also if the caller was cancelled meanwhile. `entry`
        tells the keeper what is changed.
        """
        return await self._ask(Change(work, Future(), entry=entry), then)

    async def alone(self, work: Callable[[sqlite3.Connection], Value]) -> Value:
        """Run `work` in the writing thread, between transactions."""
        return await self._ask(Change(work, Future(), alone=True), None)

    async def mend(self, generation: int, error: DatabaseBroken) -> None:
        """Replace the file that was open as `generation`, unless that was done. OSError: the disk refuses."""
        await self.alone(lambda _: self._mend(generation, error))

    async def check(self) -> None:
        """Read all of a file that was too large to be checked when it was opened, and replace it if it is broken."""
        generation = self.generation
        with ThreadPoolExecutor(1, thread_name_prefix=f"{self.path.name} check") as checking:
            try:
                await asyncio.wrap_future(checking.submit(self._check))
            except DatabaseBroken as error:
                await self.mend(generation, error)

    def _check(self) -> None:
        connection = connect(self.path, self._synchronous)
        try:
            check(connection, self.path)
            with sqlite_faults(self.path.name):
                self._keeper.scan(connection)
        finally:
            connection.close()

    async def move_in(self) -> None:
        """The folder is another one now: take what stands there, or else bring all that is known. OSError: it fails."""
        await self.alone(lambda _: self._move_in())

    def _move_in(self) -> None:
        if not size_of_file(self.path):
            with sqlite_faults(self.path.name):
                copy_whole(self._writer, self.path, self._files)
            for side in SIDE_FILES:  # of the old file, should they still stand there
                forget(self._files, self.path.with_name(self.path.name + side))
        with self._using_reader:
            self._close_both()
            self._open_or_replace()

    async def _ask(self, change: Change, then: Callable[[Value], object] | None) -> Value:
        change.future.set_running_or_notify_cancel()  # from here on nobody can take it back
        done: asyncio.Future[Value] = asyncio.wrap_future(change.future)
        done.add_done_callback(lambda ended: self._report(ended, then))
        self.pending += 1
        self._queue.put(change)
        return await asyncio.shield(done)

    def _report(self, ended: "asyncio.Future[Value]", then: Callable[[Value], object] | None) -> None:
        self.pending -= 1
        # Asking for the exception marks it as seen: a caller who left will not.
        if not ended.cancelled() and ended.exception() is None and then is not None:
            then(ended.result())

    async def close(self) -> None:
        """Finish what is queued, fold the log into the file, and end."""
        await self.alone(lambda _: None)
        self._queue.put(None)
        self._thread.join()
        self._reading.shutdown()
        self._reader.close()
        self._writer.close()

    # In the writing thread

    def _write_all(self) -> None:
        while (change := self._queue.get()) is not None:
            group = [change]
            while not group[-1].alone and len(group) < GROUP_MAX and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    self._commit(group)
                    return
                group.append(following)
            self._commit([change for change in group if not change.alone])
            for change in group:
                if change.alone:
                    self._run_alone(change)

    def _commit(self, group: list[Change]) -> None:
        """All of a group in one transaction; if that fails, each in its own, so that one cannot fail another."""
        if not group:
            return
        try:
            results = self._through_breaking(group)
        except Exception as error:
            if len(group) == 1:
                group[0].future.set_exception(error)
                return
            for change in group:
                self._commit([change])
            return
        for change, result in zip(group, results, strict=True):
            change.future.set_result(result)

    def _through_breaking(self, group: list[Change]) -> list[Any]:
        try:
            return self._transact(group)
        except DatabaseBroken as error:
            self._mend(self.generation, error)
        return self._transact(group)

    def _transact(self, group: list[Change]) -> list[Any]:
        entries = [change.entry for change in group if change.entry is not None]
        self._reopen_if_closed()
        with sqlite_faults(self.path.name):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                results = [change.work(self._writer) for change in group]
                self._keeper.note(self._writer, entries)
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
        return results

    def _mend(self, generation: int, error: DatabaseBroken) -> None:
        if generation == self.generation:
            with self._using_reader:
                self._close_both()
                self._keeper.replace(self.path, error)
                self._open()

    def _close_both(self) -> None:
        self._is_open = False
        self._reader.close()
        self._writer.close()

    def _reopen_if_closed(self) -> None:
        """A replacement that the disk refused is tried again with the next use."""
        if not self._is_open:
            with self._using_reader:
                self._open_or_replace()

    def _run_alone(self, change: Change) -> None:
        try:
            self._reopen_if_closed()
            with sqlite_faults(self.path.name):
                change.future.set_result(change.work(self._writer))
        except Exception as error:
            change.future.set_exception(error)
