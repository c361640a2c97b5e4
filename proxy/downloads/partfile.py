"""Part files by their names: made, made anew, deleted. What opens or deletes blocks, and belongs in a disk thread."""

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from proxy.downloads.progress import drop_map
from proxy.oci import Digest
from proxy.store.filesystem import Filesystem, forget, opened


def part_path(folder: Path, digest: Digest) -> Path:
    return folder / f"{digest.algorithm}-{digest.encoded}.part"


def renewed(files: Filesystem, path: Path, descriptor: int) -> io.FileIO:
    """An empty file in the place of the part that `descriptor`, closed here, has open; the blocks of that are free.
    OSError: the disk refuses, or the name is another's by now.

    Its inode is a new one for whoever has the old file open. Killed at any step, a map that is left tells of nothing.
    """
    with io.FileIO(descriptor, "r+b") as old:
        if not os.path.samestat(os.lstat(path), os.fstat(descriptor)):
            raise FileNotFoundError(f"{path.name} is another file now")
        files.unlink(path)
        fresh = io.FileIO(files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), "r+b")
        try:
            old.truncate(0)
        except BaseException:
            fresh.close()
            raise
        return fresh


def discard(path: Path) -> None:
    """Delete a part file and its map; nothing if they are gone."""
    path.unlink(missing_ok=True)
    drop_map(path)


def write_part(path: Path, chunks: Sequence[bytes]) -> None:
    """Make a part of these bytes, in the place of any other. OSError: nothing of it is left."""
    discard(path)
    files = Filesystem()
    try:
        with opened(files, path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
            for chunk in chunks:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[files.write(descriptor, rest) :]
    except OSError:
        with suppress(OSError):
            forget(files, path)
        raise
