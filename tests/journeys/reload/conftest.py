"""A server that reloads, and what it serves."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import images
from tests.support.images import Blob, Image
from tests.support.registry import Registry
from tests.support.reloading import Reloading, reloading
from tests.support.rewritten import SIZE, text


@pytest.fixture
async def server(short_tmp: Path, registry: Registry) -> AsyncIterator[Reloading]:
    async with reloading(text(registry), short_tmp) as running:
        yield running


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add("team/app", "1", images.manifest(images.blob(SIZE)))


@pytest.fixture
def layer(image: Image) -> Blob:
    return image.layers[0]
