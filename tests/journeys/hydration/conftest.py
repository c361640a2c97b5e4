"""An image of several blobs."""

import pytest

from tests.support.hydrated import APP
from tests.support.images import Image, blob, manifest
from tests.support.registry import Registry


@pytest.fixture
def image(registry: Registry) -> Image:
    """An image of a config and three layers."""
    return registry.add(APP, "1", manifest(*(blob(100_000 + seed, seed=seed) for seed in range(3))))
