"""Whole SQLite files: opened, checked, copied, set aside. Blocks; SQLite's faults leave as OSError."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from proxy.store.filesystem import Filesystem, forget, opened, sync_folder, write_new

BUSY_S: Final = 5.0
LOG_PAGES: Final = 128  # of a log until it is worked into its file: SQLite's own thousand are 4 MiB of a cap
LOG_BYTES: Final = LOG_PAGES * 4120 + 32  # a page of 4096 bytes and its head, and the log's own
SIDE_FILES: Final = ("-wal", "-shm")
BROKEN: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class DatabaseBroken(OSError):
    """The file is not a whole database of ours."""


def fault(name: str, cause: sqlite3.Error) -> OSError:
    """Broken only if SQLite says so: a full or failing disk, which keeps its errno, is no reason to drop a file."""
    code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
    if code in BROKEN:
        return DatabaseBroken(errno.EIO, f"{name}: {cause}")
    return OSError(errno.ENOSPC if code == sqlite3.SQLITE_FULL else errno.EIO, f"{name}: {cause}")


@contextmanager
def sqlite_faults(name: str) -> Iterator[None]:
    """Translate SQLite's exceptions at the border."""
    try:
        yield
    except sqlite3.Error as cause:
        raise fault(name, cause) from cause


def connect(path: Path, synchronous: str) -> sqlite3.Connection:
    """Open in WAL mode."""
    with sqlite_faults(path.name):
        connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    connection.text_factory = readable
    try:
        with sqlite_faults(path.name):
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={synchronous}")
            connection.execute(f"PRAGMA wal_autocheckpoint={LOG_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit={LOG_BYTES}")
    except BaseException:
        connection.close()
        raise
    return connection


def readable(text: bytes) -> str:
    """A text whose bytes were damaged is for who reads the row to judge, not for SQLite to refuse."""
    return text.decode(errors="replace")


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Read every page. DatabaseBroken: the file is not whole."""
    with sqlite_faults(path.name):
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise DatabaseBroken(errno.EIO, f"{path.name}: {verdict}")


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
