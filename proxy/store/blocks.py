"""Where a blob stands below the folder of all blobs, and what a file takes on its disk. Blocks."""

import os
from pathlib import Path
from typing import Final

from proxy.oci import Digest

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
