"""Where bad content goes: moved aside under a name outside blobs/, for a person to look at, and bounded.

    quarantine/<algorithm>-<hex>.<nanoseconds>

Everything here blocks and belongs in a disk thread.
"""

import os
import re
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

from proxy.oci import Digest
from proxy.store.blocks import SECTOR, blocks_of
from proxy.store.filesystem import Filesystem, entries, forget, sync_folder

FOLDER: Final = "quarantine"
FILES_MAX: Final = 16
BYTES_MAX: Final = 1 << 30
NAME: Final = re.compile(r"[a-z0-9]+-[0-9a-f]+\.([0-9]+)")


@dataclass(frozen=True, slots=True)
class Taken:
    """A bad file that went: its name here, empty if it was deleted at once; the bytes of disk that its folder lost by
    it, and what that folder itself takes now.
    """

    name: str
    freed: int
    folder: int


class Quarantine:
    """The newest FILES_MAX bad files, and at most BYTES_MAX of them."""

    def __init__(self, folder: Path, files: Filesystem, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._folder = folder
        self._files = files
        self._clock_ns = clock_ns
        self._one_at_a_time = Lock()

    def take(self, path: Path, digest: Digest, inode: int | None) -> Taken | None:
        """Move the file at `path` here; one that is too big is deleted.

        None if it is not there, or another file than `inode` has come to its place. OSError: it could not be removed.
        """
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode) or (inode is not None and found.st_ino != inode):
            return None
        name = f"{digest.algorithm}-{digest.encoded}.{self._clock_ns()}" if found.st_size <= BYTES_MAX else ""
        with self._one_at_a_time:
            if not name or not self._moved(path, name):
                name = ""
                forget(self._files, path)
            # Else a power cut could bring it back after its seal was broken, or before.
            sync_folder(self._files, path.parent)
            self._trim()
        return Taken(name, found.st_blocks * SECTOR, blocks_of(path.parent))

    def _moved(self, path: Path, name: str) -> bool:
        try:
            self._files.rename(path, self._folder / name)
        except OSError:  # no folder, no room for a name: what is bad must go all the same
            return False
        return True

    def drop_oldest(self) -> Taken | None:
        """Delete the file that was set aside first, for room; None if there is none. OSError: it could not be."""
        with self._one_at_a_time:
            oldest = min(self._mine(), default=None, key=lambda item: item[0])
            if oldest is None:
                return None
            path = Path(oldest[1].path)
            freed = blocks_of(path)
            forget(self._files, path)
        return Taken(path.name, freed, blocks_of(self._folder))

    def _mine(self) -> list[tuple[int, "os.DirEntry[str]"]]:
        """What stands here of our making, each with when it came."""
        return [(int(match[1]), entry) for entry in entries(self._folder) if (match := NAME.fullmatch(entry.name))]

    def _trim(self) -> None:
        """Delete the oldest ones beyond the bounds; what is not of our making stays."""
        kept = bytes_kept = 0
        for _, entry in sorted(self._mine(), key=lambda item: item[0], reverse=True):
            with suppress(OSError):
                kept, bytes_kept = kept + 1, bytes_kept + entry.stat(follow_symlinks=False).st_size
                if kept > FILES_MAX or bytes_kept > BYTES_MAX:
                    self._files.unlink(Path(entry.path))
