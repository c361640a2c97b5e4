"""A server with an admin address, and an image behind it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.admin import TOKEN, config
from tests.support.edge import Serving, serving
from tests.support.images import Image, blob, manifest
from tests.support.registry import Registry


@pytest.fixture
async def server(cache_dir: Path, registry: Registry) -> AsyncIterator[Serving]:
    async with serving(config(registry), cache_dir, {"CISTERN_ADMIN_TOKEN": TOKEN}) as running:
        yield running


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add("team/app", "1", manifest(blob(100_000), blob(500, seed=1)))
