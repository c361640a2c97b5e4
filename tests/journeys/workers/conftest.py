"""A server of two serving processes, and what it serves."""

from pathlib import Path

import pytest

from tests.support import images
from tests.support.cistern import CisternProcess
from tests.support.images import Blob, Image
from tests.support.registry import Registry
from tests.support.served import config
from tests.support.workers import LARGE, SIZE


@pytest.fixture
def served(short_tmp: Path, registry: Registry) -> CisternProcess:
    """A server of two serving processes; not started."""
    return CisternProcess(
        short_tmp / "cistern", config(registry, registry={"workers": 2, "drain": "20s"}, hydrate={"image": "none"})
    )


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add("team/app", "1", images.manifest(images.blob(SIZE)))


@pytest.fixture
def layer(image: Image) -> Blob:
    return image.layers[0]


@pytest.fixture
def large(registry: Registry) -> Blob:
    return registry.add("team/large", "1", images.manifest(images.blob(LARGE))).layers[0]
