"""A proxy whose cache is small, and what fills it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.events import BlobStored, IntegrityFailed, NotStored, TransferResumed
from proxy.ledger import Claim
from tests.support.clock import Clock
from tests.support.proxy import Proxy, config_text, running
from tests.support.registry import Registry

MIB = 1 << 20
CAP = 64 * MIB
SMALL = "cache: {max_size: 64MiB, keep_free: 0B, "


@pytest.fixture
async def proxy(cache_dir: Path, registry: Registry, clock: Clock) -> AsyncIterator[Proxy]:
    """A proxy that may keep 64 MiB, all of it promised to somebody else: there is room for nothing."""
    async with running(config_text(cache_dir, registry).replace("cache: {", SMALL), clock) as started:
        started.hear(NotStored, BlobStored, IntegrityFailed, TransferResumed)
        yield started


@pytest.fixture
def full(proxy: Proxy) -> Claim:
    """What fills the cache; released, there is room again."""
    return proxy.rooms.capacity.ledger.claim(CAP)
