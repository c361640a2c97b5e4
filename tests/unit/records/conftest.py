"""Records in a folder of their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.store.filesystem import Filesystem
from proxy.store.records import SqliteRecords


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    opened = SqliteRecords.open(tmp_path, Filesystem())
    yield opened
    await opened.close()
