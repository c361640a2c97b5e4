"""A second endpoint, and a blob that both hold."""

from collections.abc import AsyncIterator

import pytest

from tests.support.both import APP, MIB
from tests.support.images import Blob, blob, manifest
from tests.support.registry import Registry


@pytest.fixture
async def second(registry: Registry) -> AsyncIterator[Registry]:
    """Another endpoint of the same upstream."""
    async with Registry() as started:
        yield started


@pytest.fixture
def wanted(registry: Registry, second: Registry) -> Blob:
    """A blob that both endpoints hold."""
    image = manifest(blob(2000))
    registry.add(APP, "1", image)
    second.add(APP, "1", image)
    return second.add_blob(APP, registry.add_blob(APP, blob(3 * MIB + 777)))
