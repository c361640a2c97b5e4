"""Room put by for the next start, so that a disk which others filled to the last byte does not keep a server from it.

Everything here blocks and belongs in a disk thread.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy.log import logger
from proxy.store.filesystem import Filesystem, discarded_on_failure, entries, forget, opened

log = logger("store")
BALLAST: Final = 512 << 10  # bytes: more than lock, stamps and the databases' side files need at a start


def _room(root: Path) -> int:
    """Bytes that are free for us."""
    system = os.statvfs(root)
    return system.f_bavail * system.f_frsize


def make_room(root: Path, files: Filesystem) -> None:
    """On a full disk: what has no value goes, for a server that does not start serves nobody. Then pulls stream, and
    eviction makes room.
    """
    worthless = [
        root / "ballast",
        *(Path(entry.path) for name in ("parts", "quarantine") for entry in entries(root / name)),
    ]
    for path in worthless:
        if _room(root) >= BALLAST:
            return
        with suppress(OSError):
            forget(files, path)
            log.warning("the disk is full: a file was given up to start", file=path.name)


def take(root: Path, files: Filesystem) -> None:
    """Take the room for the next start, where there is plenty. One that cannot be had is no reason not to start."""
    path = root / "ballast"
    with suppress(OSError):
        if os.path.lexists(path) or _room(root) < 4 * BALLAST:
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with opened(files, path, flags) as descriptor, discarded_on_failure(files, path):
            os.posix_fallocate(descriptor, 0, BALLAST)


def drop(root: Path, files: Filesystem) -> None:
    """Take none, where it would be much of a small cache."""
    with suppress(OSError):
        forget(files, root / "ballast")
