"""What the tests of several rooms are given."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.store.threads import Threads
from tests.support.checked import Bench, checked_store


@pytest.fixture
def password(tmp_path: Path) -> Path:
    """The file of an upstream's password."""
    file = tmp_path / "password"
    file.write_text("secret-word\n")
    return file


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    """One thread for the disk and one for hashes: what is held up holds up all that comes behind it."""
    async with Threads(disk=1, hashing=1) as pools:
        yield pools


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """A store whose blobs are sealed and checked, in a directory of its own."""
    async with checked_store(tmp_path) as made:
        yield made
