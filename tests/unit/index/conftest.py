"""An index in a folder of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.store.filesystem import Filesystem
from proxy.store.index import SqliteIndex


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[SqliteIndex]:
    opened = SqliteIndex.open(tmp_path, Filesystem())
    yield opened
    await opened.close()
