"""A proxy whose upstream has two endpoints, one of which a rule may pin."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.events import TransferResumed
from tests.support.clock import Clock
from tests.support.proxy import Proxy, proxied
from tests.support.registry import Registry

MIB = 1 << 20
APP = "team/app"
TAG = f"{APP}/manifests/1"
PINNED = """
rules:
  - {name: first, repository: pinned/*, upstream: origin.test/team/*, endpoint: "URL"}
"""
# Both rules lead to one place.
PINNED_AND_NOT = PINNED + "  - {name: any, repository: any/*, upstream: origin.test/team/*}\n"


@asynccontextmanager
async def both(
    cache: Path, registry: Registry, second: Registry, clock: Clock, extra: str = "", **keys: object
) -> AsyncIterator[Proxy]:
    """A proxy whose upstream has both endpoints, in this order."""
    endpoints = [{"url": registry.url}, {"url": second.url}]
    timeouts = {"connect": "1s", "headers": "1s", "stall": "300ms"}
    keys = {"endpoints": endpoints, "timeouts": timeouts, "breaker": {"failures": 3}, **keys}
    async with proxied(cache, registry, clock, f"hydrate: {{image: none}}\n{extra}", **keys) as proxy:
        proxy.hear(TransferResumed)
        yield proxy
