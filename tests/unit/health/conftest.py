"""The room that is judged."""

from typing import Any

import pytest

from proxy.tasks import Tasks
from tests.support.clock import Clock
from tests.support.healthy import Site


@pytest.fixture
async def site(clock: Clock) -> Any:
    async with Tasks() as tasks:
        yield Site(clock, tasks)
