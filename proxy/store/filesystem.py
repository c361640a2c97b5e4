"""The few calls by which the store changes its directory: one object, so that a test can make the N-th of them fail.

Everything here blocks and belongs in a disk thread. Paths are the store's own; none comes from a request.
"""

import os
import stat
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PRIVATE_FILE = 0o600
PRIVATE_FOLDER = 0o700


class Filesystem:
    """The real thing; a faulty twin overrides single calls. All raise OSError. `pid` is the process that the lock
    names, whom an operator would signal; None is this one.
    """

    pid: int | None = None

    def open(self, path: Path, flags: int) -> int:
        # A link planted at the name is refused (ELOOP), and a planted FIFO does not block the thread.
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, PRIVATE_FILE)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        return os.write(descriptor, data)

    def pwritev(self, descriptor: int, buffers: "Sequence[bytes | memoryview]", offset: int) -> int:
        return os.pwritev(descriptor, buffers, offset)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)

    def unlink(self, path: Path) -> None:
        os.unlink(path)

    def mkdir(self, path: Path) -> None:
        os.mkdir(path, PRIVATE_FOLDER)

    def rmdir(self, path: Path) -> None:
        os.rmdir(path)


@contextmanager
def opened(files: Filesystem, path: Path, flags: int) -> "Iterator[int]":
    """A descriptor that is closed on the way out."""
    descriptor = files.open(path, flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_new(files: Filesystem, path: Path, data: bytes) -> None:
    """Write and sync a file that must not exist yet; on failure nothing is left of it, and fsync is not tried again."""
    with opened(files, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor, discarded_on_failure(files, path):
        rest = memoryview(data)
        while rest:
            rest = rest[files.write(descriptor, rest) :]
        files.fsync(descriptor)


def replace_file(files: Filesystem, path: Path, data: bytes) -> None:
    """Give `path` new content: it holds the old or the new one after a crash at any step, never a mixture."""
    fresh = path.with_name(path.name + ".new")
    forget(files, fresh)  # a crash may have left it
    write_new(files, fresh, data)
    with discarded_on_failure(files, fresh):
        files.rename(fresh, path)
    sync_folder(files, path.parent)


def sync_folder(files: Filesystem, folder: Path) -> None:
    """Make the names in a folder durable."""
    with opened(files, folder, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        files.fsync(descriptor)


def forget(files: Filesystem, path: Path) -> None:
    """Unlink; nothing if it is not there."""
    with suppress(FileNotFoundError):
        files.unlink(path)


@contextmanager
def discarded_on_failure(files: Filesystem, path: Path) -> "Iterator[None]":
    """After any failure inside, `path` is unlinked: after a failed fsync its pages lie (reliability A05)."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            files.unlink(path)
        raise


def size_of_file(path: Path) -> int | None:
    """The size of a regular file, None if there is none (a link is not one)."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def entries(folder: Path) -> "list[os.DirEntry[str]]":
    """What a folder holds, nothing if it is not there."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except FileNotFoundError:
        return []
