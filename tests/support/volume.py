"""A small file system of a test's own, with so many bytes and files; and folders that turn read-only."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Volume:
    """A mounted tmpfs."""

    root: Path

    def fill(self, path: Path, leave: int) -> None:
        """Somebody else takes all but `leave` bytes, with one file at `path`."""
        room = os.statvfs(self.root)
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - leave)


@contextmanager
def volume(root: Path, size: str, files: int = 10_000) -> Iterator[Volume]:
    """Mount it at `root`, made if need be. Needs the right to mount; without it the test fails and says so."""
    root.mkdir(exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={files},mode=0700", "cistern-test", str(root))
    try:
        yield Volume(root)
    finally:
        _run("umount", "-l", str(root))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing below `folder` can be changed by its name: what a file system does that met an error and gave up."""
    _run("mount", "--bind", str(folder), str(folder))
    try:
        _run("mount", "-o", "remount,ro,bind", str(folder))
        yield
    finally:
        _run("umount", "-l", str(folder))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
