"""What really stands under a directory, in bytes of disk: the truth that the ledger is held against."""

import os
from pathlib import Path

SECTOR = 512


def blocks_under(root: Path) -> int:
    """The blocks of every file and folder below `root`, itself included; what vanishes meanwhile counts nothing."""
    taken = _blocks(root)
    for folder, folders, files in os.walk(root):
        taken += sum(_blocks(Path(folder) / name) for name in (*folders, *files))
    return taken


def _blocks(path: Path) -> int:
    try:
        return os.lstat(path).st_blocks * SECTOR
    except FileNotFoundError:
        return 0
