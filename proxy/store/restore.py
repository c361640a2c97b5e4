"""Keeps the records whole: from their backup when the file is gone or broken, and from the log of changes always.

Backup and log together make the records anew; what even they do not have is named in the log of the server.
"""

import errno
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final

from proxy.log import logger
from proxy.store import rows
from proxy.store.changelog import Change, ChangeLog
from proxy.store.copies import DatabaseBroken, check, copy_whole, readable, set_aside, sqlite_faults
from proxy.store.filesystem import Filesystem, size_of_file
from proxy.store.keeper import Keeper

log = logger("records")
BACKUP: Final = "records.backup.sqlite"
NAMED_MAX: Final = 20  # of the changes that a line of the server's log names
LAST: Final = "SELECT last FROM changes"


class RecordsKeeper(Keeper):
    """The keeper of one `records.sqlite`, used in its writing thread. `restored_at` is when its backup was made, if
    it had to be taken.
    """

    def __init__(self, folder: Path, files: Filesystem) -> None:
        self._backup = folder / BACKUP
        self._files = files
        self.changes = ChangeLog(folder, files)
        self._restored: str | None = None
        self._is_anew = False
        self._last = 0

    @property
    def needs_backup(self) -> bool:
        """Whether backup and log together do not make the records."""
        return not self.changes.is_whole

    def missing(self, path: Path) -> None:
        self._is_anew = True
        self._restore(path, "missing")

    def replace(self, path: Path, error: DatabaseBroken) -> None:
        aside = set_aside(path, self._files)
        log.warning("records are broken and set aside", file=aside.name, error=str(error))
        self._is_anew = True
        self._restore(path, "broken")

    def _restore(self, path: Path, why: str) -> None:
        """Copy the backup into the place of the records. One that is broken too is set aside: better none than no
        start.
        """
        if not size_of_file(self._backup):
            return
        saved_at = datetime.fromtimestamp(self._backup.stat().st_mtime, UTC).isoformat(timespec="seconds")
        try:
            with sqlite_faults(self._backup.name):
                source = sqlite3.connect(f"{self._backup.absolute().as_uri()}?mode=ro", uri=True)
                source.text_factory = readable
                try:
                    check(source, self._backup)
                    if _has_crc(source):
                        rows.scan(source)
                    copy_whole(source, path, self._files)
                finally:
                    source.close()
        except DatabaseBroken as error:
            aside = set_aside(self._backup, self._files)
            log.warning("the backup of the records is broken too", file=aside.name, error=str(error))
            return
        self._restored = saved_at
        log.warning("records restored from their backup", why=why, backup_of=saved_at)

    def prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            rows.upgrade(connection)
            self._catch_up(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._is_anew, self._restored = False, None

    def _catch_up(self, connection: sqlite3.Connection) -> None:
        """Make the changes that the log has and the file has not."""
        self.changes.close()
        found = self.changes.read()
        [last] = next(iter(connection.execute(LAST)), (None,))
        if last is None:
            last = 0
            connection.execute("INSERT INTO changes VALUES (0)")
        if last < self.changes.base and not self._is_anew:
            raise DatabaseBroken(errno.EIO, "the records lack changes that their backup has: their -wal file was lost")
        missed = [change for change in found if change.number > last]
        for change in missed:
            rows.apply(connection, change.what)
        self._last = max([last, *(change.number for change in missed)])
        connection.execute("UPDATE changes SET last=?", (self._last,))
        self._tell(missed)
        if not self.changes.is_whole and not self._last and rows.are_empty(connection):
            with suppress(OSError):  # a new store: nothing is in no backup
                self.changes.begin(0)

    def _tell(self, missed: Sequence[Change]) -> None:
        lost = self.changes.unreadable
        if missed:
            names = [name for change in missed for name in rows.named(change.what)]
            named = list(islice(names, NAMED_MAX))
            log.warning("changes were made again from the log of changes", count=len(missed), changed=named, lost=lost)
        elif self._is_anew and (lost or self._restored is not None):
            since = "nothing" if self.changes.is_whole else "what the log of changes does not tell"
            log.warning("what came after the backup of the records", lost=lost or since)

    def scan(self, connection: sqlite3.Connection) -> None:
        rows.scan(connection)

    def note(self, connection: sqlite3.Connection, entries: Sequence[Any]) -> None:
        if entries:
            changes = [Change(self._last + at, entry) for at, entry in enumerate(entries, 1)]
            self.changes.append(changes)
            connection.execute("UPDATE changes SET last=?", (changes[-1].number,))
            self._last = changes[-1].number

    def backed_up(self, connection: sqlite3.Connection) -> None:
        """A backup of this very state stands on the disk: the log of changes begins anew."""
        [[last]] = connection.execute(LAST)
        self.changes.begin(last)


def _has_crc(connection: sqlite3.Connection) -> bool:
    """Whether a file is of a version whose rows prove themselves."""
    return any(row[1] == "crc" for row in connection.execute("PRAGMA table_info(links)"))
