"""An upstream whose circuit opens, rests and is probed; the clock is turned by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.errors import UpstreamUnavailable
from proxy.upstream.client import Clients
from tests.support.clock import Clock
from tests.support.waiting import until
from tests.unit.upstream_peers import NAME, Asked, Peer, Reply, clients, config, source

MANIFEST = b'{"schemaVersion":2}'
PING = ("GET", "/v2/")


class Upstream(Peer):
    """A registry that is down until told; its pings are counted apart from what clients want."""

    def __init__(self) -> None:
        super().__init__(self.serve)
        self.down: Reply | None = Reply(503)
        self.down_ping: Reply | None = Reply(503)

    def serve(self, asked: Asked) -> Reply:
        if (asked.method, asked.target) == PING:
            return self.down_ping or Reply()
        return self.down or Reply(body=MANIFEST)

    @property
    def pings(self) -> int:
        return sum((asked.method, asked.target) == PING for asked in self.asked)

    def up(self) -> None:
        self.down = self.down_ping = None


@asynccontextmanager
async def left_alone(upstream: Upstream, clock: Clock, *more: str, **keys: Any) -> AsyncIterator[Clients]:
    """Clients whose first endpoint is left alone since a moment ago; the next probe is due in 10 s."""
    breaker = {"failures": 3, "reset_after": "10s"}
    settings = config(upstream.url(), *more, breaker=breaker, **keys)
    async with clients(settings, monotonic=clock, sleep=clock.sleep) as upstreams:
        for tag in "ab":
            with pytest.raises(UpstreamUnavailable):
                await upstreams.get_manifest(source(endpoint=upstream.url()), tag)
        assert upstreams.endpoints(NAME)[0].breaker.state == "open"
        upstream.asked.clear()
        yield upstreams


async def rested(clock: Clock, sleepers: int = 1) -> None:
    """Wait until so many tasks sleep by the clock."""
    await until(lambda: len(clock.sleeping) == sleepers)
