"""A file on the disk, all of it in the page cache."""

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

import pytest

from tests.support.filed import SIZE


@pytest.fixture
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def file(tmp_path: Path, content: bytes) -> Iterator[FileIO]:
    """A file on the disk, all of it in the page cache."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with FileIO(path) as opened:
        os.fsync(opened.fileno())
        yield opened
