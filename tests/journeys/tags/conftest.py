"""A proxy in front of a tag."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.proxy import Proxy, proxied
from tests.support.registry import Registry
from tests.support.tagged import APP


@pytest.fixture
async def proxy(cache_dir: Path, registry: Registry, clock: Clock) -> AsyncIterator[Proxy]:
    """A proxy whose Cache-Status has a fixed name and whose upstream has short timeouts."""
    timeouts = {"connect": "1s", "headers": "1s", "stall": "1s"}
    extra = "registry: {name: cistern-test}\ntags: {check_within: 5s}"
    async with proxied(cache_dir, registry, clock, extra=extra, timeouts=timeouts) as running:
        yield running


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add(APP, "1", manifest(blob(2000)))
