"""A secret of the cache directory's own: made once, readable for its owner alone, there for the next start."""

import secrets
from pathlib import Path
from typing import Final

from proxy.store.filesystem import Filesystem, replace_file

NAME: Final = "data.key"
SECRET_BYTES: Final = 32
FILE_MAX: Final = 64 << 10


def read_or_make(root: Path, files: Filesystem) -> str:
    """The text of the directory's key file; made, and durable, if there is none. Blocks; OSError: the disk refuses."""
    path = root / NAME
    try:
        with open(path, "rb") as file:
            text = file.read(FILE_MAX).decode("ascii", "replace")
    except FileNotFoundError:
        text = ""
    if not text.strip():  # not there, or emptied: what was signed by it is lost
        text = secrets.token_hex(SECRET_BYTES) + "\n"
        replace_file(files, path, text.encode())
    return text
