"""A server with a data address, and an image with blobs on both sides of the line."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from proxy.exchange import Exchange
from tests.support import images
from tests.support.clock import Clock
from tests.support.data import Asking
from tests.support.images import Image
from tests.support.redirecting import OVER, Site, text
from tests.support.registry import Registry
from tests.support.reloading import reloading


@pytest.fixture
async def opened(short_tmp: Path, clock: Clock, registry: Registry) -> AsyncIterator[Any]:
    """Opens a site with these sections of configuration."""
    async with AsyncExitStack() as stack:

        async def open_site(**sections: Any) -> Site:
            server = await stack.enter_async_context(reloading(text(registry, **sections), short_tmp, clock))
            exchanges: list[Exchange] = []
            server.rooms.events.listen(Exchange, exchanges.append)
            assert server.edge.data is not None
            front, data = (one.url.removeprefix("http://") for one in (server.edge.clients, server.edge.data[1]))
            return Site(server, registry, Asking(front), Asking(data), exchanges)

        yield open_site


@pytest.fixture
async def site(opened: Any) -> Site:
    made: Site = await opened()
    return made


@pytest.fixture
def image(registry: Registry) -> Image:
    """Layers of 300 000 and 100 001 bytes, and one of just 100 000."""
    layers = (images.blob(300_000), images.blob(OVER + 1, seed=2), images.blob(OVER, seed=3))
    return registry.add("team/app", "1", images.manifest(*layers))
