"""The size of a file that is sent in several turns, and its way out of the page cache."""

import os
from io import FileIO

from proxy.server.outlet import TURN

SIZE = 3 * TURN + 12_345


def drop(file: FileIO, offset: int = 0, length: int = 0) -> None:
    os.posix_fadvise(file.fileno(), offset, length, os.POSIX_FADV_DONTNEED)
