"""One small image behind the proxy."""

import pytest

from tests.support.images import Image, blob, manifest
from tests.support.registry import Registry

APP = "team/app"


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add(APP, "1", manifest(blob(200_000)))
