"""A server in front of the scripted registry, and a layer behind it."""

from pathlib import Path

import pytest

from tests.support import images
from tests.support.cistern import CisternProcess
from tests.support.images import Blob
from tests.support.registry import Registry
from tests.support.served import SIZE, config


@pytest.fixture
def served(short_tmp: Path, registry: Registry) -> CisternProcess:
    """A server in front of the scripted registry; not started."""
    return CisternProcess(short_tmp / "cistern", config(registry))


@pytest.fixture
def layer(registry: Registry) -> Blob:
    return registry.add("team/app", "1", images.manifest(images.blob(SIZE))).layers[0]
