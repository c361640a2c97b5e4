"""A file system whose N-th call fails: once, or from then on; or which loses at a power cut what was never synced."""

import errno
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock

from proxy.store.filesystem import Filesystem


def io_error() -> None:
    raise OSError(errno.EIO, "injected I/O error")


def no_space() -> None:
    raise OSError(errno.ENOSPC, "injected: no space left")


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FaultyFilesystem(Filesystem):
    """Counts its calls; call number `at` (1 is the first, 0 never) meets `fault`, and all later ones too if `sticky`.

    A write that fails has written half of its bytes first. `steps` names every call in order.
    """

    def __init__(self, at: int = 0, fault: Callable[[], None] = io_error, *, sticky: bool = False) -> None:
        self.at = at
        self.fault = fault
        self.sticky = sticky
        self.steps: list[str] = []
        self._lock = Lock()

    @property
    def was_hit(self) -> bool:
        return 0 < self.at <= len(self.steps)

    def _fires(self, step: str) -> bool:
        with self._lock:
            self.steps.append(step)
            number = len(self.steps)
        return self.at != 0 and (number == self.at or (self.sticky and number > self.at))

    def _step(self, step: str) -> None:
        if self._fires(step):
            self.fault()

    def open(self, path: Path, flags: int) -> int:
        self._step(f"open {path.name}")
        return super().open(path, flags)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        if self._fires("write"):
            super().write(descriptor, data[: len(data) // 2])
            self.fault()
        return super().write(descriptor, data)

    def pwritev(self, descriptor: int, buffers: Sequence[bytes | memoryview], offset: int) -> int:
        if self._fires("pwritev"):
            whole = b"".join(buffers)
            super().pwritev(descriptor, [whole[: len(whole) // 2]], offset)
            self.fault()
        return super().pwritev(descriptor, buffers, offset)

    def fsync(self, descriptor: int) -> None:
        self._step(f"fsync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        super().fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        self._step(f"rename {target.name}")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._step(f"unlink {path.name}")
        super().unlink(path)

    def mkdir(self, path: Path) -> None:
        self._step(f"mkdir {path.name}")
        super().mkdir(path)

    def rmdir(self, path: Path) -> None:
        self._step(f"rmdir {path.name}")
        super().rmdir(path)


class LossyFilesystem(FaultyFilesystem):
    """From call `at` on the machine is dead. `cut` then takes away what was not synced: names, or bytes."""

    def __init__(self, at: int = 0) -> None:
        super().__init__(at, sticky=True)
        self._bytes: set[int] = set()  # inodes whose bytes may be lost
        self._names: set[Path] = set()  # names that may be lost

    def wrote(self, path: Path) -> None:
        """Tell of a file that was written by other means, and not synced."""
        self._bytes.add(path.stat().st_ino)
        self._names.add(path)

    def open(self, path: Path, flags: int) -> int:
        descriptor = super().open(path, flags)
        if flags & os.O_EXCL:
            self._names.add(path)
        return descriptor

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        self._bytes.add(os.fstat(descriptor).st_ino)
        return super().write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self._bytes.discard(os.fstat(descriptor).st_ino)
        self._names -= {name for name in self._names if name.parent == path}

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self._names.discard(source)
        self._names.add(target)

    def mkdir(self, path: Path) -> None:
        super().mkdir(path)
        self._names.add(path)

    def cut(self, root: Path, *, names: bool) -> None:
        """Power is gone: with `names` every unsynced name is lost, without it every unsynced byte."""
        if names:
            for name in self._names:
                shutil.rmtree(name) if name.is_dir() else name.unlink(missing_ok=True)
            return
        for path in plain_files(root):
            if path.stat().st_ino in self._bytes:
                os.truncate(path, path.stat().st_size // 2)


def plain_files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
