"""Images to explain, and what is told of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.explain import Explanation
from tests.support.clock import Clock
from tests.support.images import Image, layer
from tests.support.kept import REPOSITORY, Kept, kept
from tests.support.proxy import UPSTREAM
from tests.support.registry import Registry

NAME = f"{UPSTREAM}/{REPOSITORY}"
BASE = layer({"base": b"b" * 5000})


@asynccontextmanager
async def pulled(
    registry: Registry, cache: Path, clock: Clock, image: Image, extra: str = "hydrate: {image: none}\n"
) -> AsyncIterator[Kept]:
    """The rooms after `image` was pulled whole as tag 1."""
    registry.add(REPOSITORY, "1", image)
    async with kept(cache, registry, clock, extra) as rooms:
        await rooms.pull(image)
        yield rooms


def told(explanation: Explanation) -> str:
    return "\n".join(explanation.as_text())
