"""Where a blob stands below the folder of all blobs, and what a file takes on its disk. Blocks."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxy.oci import HEX, HEX_LENGTH, Digest
from proxy.store.base import Stored
from proxy.store.filesystem import entries

SECTOR: Final = 512  # the unit of st_blocks, whatever the file system's own blocks are


def folder_of(digest: Digest) -> str:
    """The folder that a blob stands in, as the ledger calls it too."""
    return f"{digest.algorithm}/{digest.encoded[:2]}"


def blob_path(blobs: Path, digest: Digest) -> Path:
    """Where a blob stands below the folder `blobs`, or would."""
    return blobs / digest.algorithm / digest.encoded[:2] / digest.encoded


def blocks_of(path: Path) -> int:
    """What a file or folder takes on its disk, in bytes; nothing if it is not there."""
    try:
        return os.lstat(path).st_blocks * SECTOR
    except (FileNotFoundError, NotADirectoryError):
        return 0


def shards(blobs: Path) -> list[Path]:
    """The folders in which blobs stand."""
    return [
        Path(shard.path)
        for algorithm in HEX_LENGTH
        for shard in entries(blobs / algorithm)
        if shard.is_dir(follow_symlinks=False)
    ]


def blobs_in(shard: Path) -> list[Stored]:
    """The blobs of one shard; a name that is no digest of this shard, or no plain file, is not one."""
    found: list[Stored] = []
    algorithm = shard.parent.name
    for entry in entries(shard):
        name = entry.name
        if len(name) != HEX_LENGTH[algorithm] or HEX.fullmatch(name) is None or name[:2] != shard.name:
            continue
        with suppress(FileNotFoundError):  # deleted since the folder was read
            if entry.is_file(follow_symlinks=False):
                told = entry.stat(follow_symlinks=False)
                found.append(Stored(Digest(algorithm, name), told.st_size, told.st_blocks * SECTOR))
    return found
