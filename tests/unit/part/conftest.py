"""A growing file, and the tasks that it works by."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.downloads.part import Part
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from tests.support.parts import DIGEST


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    async with Tasks() as running:
        yield running


@pytest.fixture
async def part(tmp_path: Path, threads: Threads, tasks: Tasks) -> AsyncIterator[Part]:
    opened = await Part.open(tmp_path, DIGEST, threads, tasks)
    yield opened
    opened.close()
