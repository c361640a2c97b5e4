"""One SQLite file with one writing thread and one reading thread; queued writes share a transaction and its sync.

Knows SQL's manners, no table. WAL, `BEGIN IMMEDIATE`. Its faults leave as OSError, so nobody above knows of SQLite.
A write once asked for is done and reported in order, whether or not the caller still waits.
"""

import asyncio
import errno
import os
import queue
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, Final, Literal, TypeVar

from proxy.store.filesystem import Filesystem, forget, opened, sync_folder, write_new

Value = TypeVar("Value")
Row = tuple[Any, ...]

GROUP_MAX: Final = 256  # changes per transaction: bounds how long the first of them waits
BUSY_S: Final = 5.0
FULL: Final = frozenset({sqlite3.SQLITE_FULL})
SIDE_FILES: Final = ("-wal", "-shm")


class DatabaseBroken(OSError):
    """The file is not a whole database of ours."""


@contextmanager
def sqlite_faults(name: str) -> Iterator[None]:
    """Translate SQLite's exceptions at the border; a full disk keeps its errno."""
    try:
        yield
    except sqlite3.Error as cause:
        code = getattr(cause, "sqlite_errorcode", None)
        number = errno.ENOSPC if code in FULL else errno.EIO
        raise OSError(number, f"{name}: {cause}") from cause


@dataclass(slots=True)
class Change:
    """One queued piece of work for the writing thread. `alone`: outside of any transaction."""

    work: Callable[[sqlite3.Connection], Any]
    future: "Future[Any]"
    alone: bool = False


class Database:
    """An open file. Construct it in a disk thread (it blocks); `close` ends both threads."""

    def __init__(self, path: Path, schema: str, synchronous: Literal["FULL", "NORMAL"], files: Filesystem) -> None:
        """Open or create. DatabaseBroken: it must be set aside first (`set_aside`). OSError: the disk failed."""
        self.path = path
        self.was_made = not path.exists()
        self._files = files
        if self.was_made:
            for side in SIDE_FILES:  # the log of a file that is gone must never be played into a new one
                forget(files, path.with_name(path.name + side))
            write_new(files, path, b"")  # SQLite gives its side files this one's mode, 0600
        self._writer = _connect(path, synchronous)
        try:
            check(self._writer, path)
            with sqlite_faults(path.name):
                self._writer.executescript(schema)
            self._reader = _connect(path, synchronous)
        except BaseException:
            self._writer.close()
            raise
        sync_folder(files, path.parent)
        self.pending = 0  # changes asked for and not yet reported; read and written on the event loop only
        self._queue: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self._thread = Thread(target=self._write_all, name=f"{path.name} writer", daemon=True)
        self._thread.start()
        self._reading = ThreadPoolExecutor(1, thread_name_prefix=f"{path.name} reader")

    async def read(self, query: str, values: Row = ()) -> list[Row]:
        """Every row of a query, as of the last commit."""
        return await asyncio.wrap_future(self._reading.submit(self._read, query, values))

    def _read(self, query: str, values: Row) -> list[Row]:
        with sqlite_faults(self.path.name):
            return self._reader.execute(query, values).fetchall()

    async def write(
        self, work: Callable[[sqlite3.Connection], Value], then: Callable[[Value], object] | None = None
    ) -> Value:
        """Run `work` in a transaction, perhaps twice (so it must change nothing else); returns after the commit.

        `then` gets the result on the event loop, in commit order, also if the caller was cancelled meanwhile.
        """
        return await self._ask(Change(work, Future()), then)

    async def alone(self, work: Callable[[sqlite3.Connection], Value]) -> Value:
        """Run `work` in the writing thread, between transactions."""
        return await self._ask(Change(work, Future(), alone=True), None)

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
            results = self._transact(group)
        except Exception as error:
            if len(group) == 1:
                group[0].future.set_exception(error)
                return
            for change in group:
                self._commit([change])
            return
        for change, result in zip(group, results, strict=True):
            change.future.set_result(result)

    def _transact(self, group: list[Change]) -> list[Any]:
        with sqlite_faults(self.path.name):
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                results = [change.work(self._writer) for change in group]
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise
        return results

    def _run_alone(self, change: Change) -> None:
        try:
            with sqlite_faults(self.path.name):
                change.future.set_result(change.work(self._writer))
        except Exception as error:
            change.future.set_exception(error)


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    with sqlite_faults(path.name):
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
    except sqlite3.DatabaseError as cause:
        connection.close()
        raise _broken(path, cause) from cause
    return connection


def check(connection: sqlite3.Connection, path: Path) -> None:
    try:
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as cause:
        raise _broken(path, cause) from cause
    if verdict != "ok":
        raise DatabaseBroken(errno.EIO, f"{path.name}: {verdict}")


def _broken(path: Path, cause: sqlite3.DatabaseError) -> OSError:
    """Broken only if SQLite says so: a full or failing disk is no reason to set a good file aside."""
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return DatabaseBroken(errno.EIO, f"{path.name}: {cause}")
    return OSError(errno.ENOSPC if code in FULL else errno.EIO, f"{path.name}: {cause}")


def set_aside(path: Path, files: Filesystem) -> Path:
    """Move a broken file to `NAME.broken`, for a person to look at, and drop its log; returns where it went."""
    aside = path.with_name(path.name + ".broken")
    for side in SIDE_FILES:
        forget(files, path.with_name(path.name + side))
    files.rename(path, aside)
    sync_folder(files, path.parent)
    return aside


def copy_whole(connection: sqlite3.Connection, target: Path, files: Filesystem) -> None:
    """Copy a database to `target`: the old copy or the new one stands there after a crash at any step."""
    fresh = target.with_name(target.name + ".new")
    for name in ("", "-journal", *SIDE_FILES):
        forget(files, fresh.with_name(fresh.name + name))
    write_new(files, fresh, b"")
    copy = sqlite3.connect(fresh, isolation_level=None)
    try:
        copy.execute("PRAGMA synchronous=OFF")  # synced once, whole, below
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode=DELETE")  # one plain file, no log beside it
    finally:
        copy.close()
    with opened(files, fresh, os.O_RDONLY) as descriptor:
        files.fsync(descriptor)
    files.rename(fresh, target)
    sync_folder(files, target.parent)
