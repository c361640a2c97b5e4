"""What changed in the records since their last backup, one line each, beside them: backup and lines make the records.

    records.changes    `CRC32 {"base": N}`, then `CRC32 [NUMBER, what changed…]`

A line is written before its transaction commits and is not synced: a killed server loses none, a power cut the last
ones, which the records themselves then still have. Each line proves itself; one that does not is counted and skipped.
Used in the writing thread of the records only.
"""

import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from proxy.log import logger
from proxy.store.filesystem import Filesystem, replace_file

log = logger("records")
FILE: Final = "records.changes"
BYTES_MAX: Final = 64 << 20  # beyond it nothing more is noted until the next backup


@dataclass(frozen=True, slots=True)
class Change:
    """`number` grows by one from change to change, over all starts."""

    number: int
    what: list[Any]


class ChangeLog:
    """The file in one cache directory. `base`: the backup holds every change up to this number."""

    def __init__(self, folder: Path, files: Filesystem) -> None:
        self._path = folder / FILE
        self._files = files
        self._descriptor: int | None = None
        self._size = 0
        self._is_torn = False
        self.base = 0
        self.unreadable = 0
        self.is_whole = True  # nothing that changed since the last backup is known to be missing

    def read(self) -> list[Change]:
        """Every change that can be read, in order."""
        self.base = self.unreadable = 0
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:  # not there: an older store, or lost
            lines = []
        found = list(_parsed(lines))
        heads = [entry["base"] for entry in found if isinstance(entry, dict)]
        changes = [Change(entry[0], entry[1:]) for entry in found if isinstance(entry, list)]
        self.base = heads[0] if heads else 0
        self.unreadable = len([line for line in lines if line]) - len(heads) - len(changes)
        self.is_whole = bool(heads) and not self.unreadable
        return sorted(changes, key=lambda change: change.number)

    def append(self, changes: Sequence[Change]) -> None:
        """Note what is about to be committed. A disk that refuses costs the line, not the change."""
        if self._size > BYTES_MAX:
            return
        lines = b"".join(_line([change.number, *change.what]) for change in changes)
        data = b"\n" + lines if self._is_torn else lines
        try:
            self._is_torn = True
            self._write(data)
            self._is_torn = False
        except OSError as error:
            if self.is_whole:
                log.warning("changes of the records cannot be noted until the next backup", error=str(error))
            self.is_whole = False
        if self._size > BYTES_MAX:
            log.warning("the log of changes is full until the next backup of the records")
            self.is_whole = False

    def _write(self, data: bytes) -> None:
        if self._descriptor is None:
            self._descriptor = self._files.open(self._path, os.O_WRONLY | os.O_APPEND)
            self._size = os.fstat(self._descriptor).st_size
        rest = memoryview(data)
        while rest:
            written = self._files.write(self._descriptor, rest)
            self._size += written
            rest = rest[written:]

    def begin(self, base: int) -> None:
        """Forget everything: a backup holds all changes up to `base`. OSError: the old lines stay."""
        self.close()
        replace_file(self._files, self._path, _line({"base": base}))
        self.base, self.unreadable, self._is_torn, self.is_whole = base, 0, False, True

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._size = 0


def _line(document: Any) -> bytes:
    body = orjson.dumps(document)
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _parsed(lines: Sequence[bytes]) -> Iterator[Any]:
    """What the sound lines say."""
    for line in lines:
        body = line[9:]
        if line[:9] == b"%08x " % zlib.crc32(body):
            yield orjson.loads(body)
