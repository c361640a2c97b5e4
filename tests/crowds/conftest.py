"""A proxy in front of the scripted registry, for every crowd."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.clock import Clock
from tests.support.proxy import Proxy, proxied
from tests.support.registry import Registry


@pytest.fixture
async def proxy(cache_dir: Path, registry: Registry, clock: Clock) -> AsyncIterator[Proxy]:
    """A proxy in front of `registry`, whose clock the test turns."""
    async with proxied(cache_dir, registry, clock) as running:
        yield running
