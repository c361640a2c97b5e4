"""Cistern in this process as the subject of a fault row: its clock is turned by hand, its waits are short."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.app import World
from proxy.oci import Digest
from tests.faults.stage import Stage
from tests.support.clock import Clock
from tests.support.edge import Serving, serving
from tests.support.proxy import UPSTREAM, config_text

TIMEOUTS = {"connect": "2s", "headers": "1500ms", "stall": "800ms"}
TAGS = "check_within: 10s"


@dataclass(slots=True)
class Here:
    """A whole server in this process, before one stage."""

    server: Serving
    clock: Clock
    prefix: str = f"{UPSTREAM}/"

    @property
    def netloc(self) -> str:
        return self.server.edge.clients.url.removeprefix("http://")

    def committed(self, digest: Digest) -> bytes | None:
        path = self.server.rooms.disk.blobs.path_of(digest)
        return path.read_bytes() if path.exists() else None

    async def quiet(self) -> None:
        await self.server.rooms.downloads.idle()
        await self.server.rooms.tags.settled()

    async def age(self, seconds: float) -> None:
        self.clock.advance(seconds)

    async def signal(self, metric: str) -> float | None:
        return await self.server.metric(metric) or 0.0


@asynccontextmanager
async def here(
    cache: Path,
    stage: Stage,
    clock: Clock,
    keys: str = "",
    *,
    monotonic: Clock | None = None,
    headers: str | None = None,
) -> AsyncIterator[Here]:
    """A server before `stage`; `keys` are tag keys of its own. Chance is none: jitter waits for nothing. Without
    `monotonic` both kinds of time are the clock's; `headers` is another time for an answer's head.
    """
    tags = keys.removeprefix("tags: {").removesuffix("}") if keys.startswith("tags:") else ""
    extra = f"hydrate: {{image: none}}\ntags: {{{', '.join(filter(None, (TAGS, tags)))}}}\n"
    world = World(clock=clock, monotonic=monotonic or clock, rng=lambda: 0.0, environ={})
    timeouts = TIMEOUTS if headers is None else {**TIMEOUTS, "headers": headers}
    async with serving(config_text(cache, stage.url, extra, timeouts=timeouts), cache, world=world) as server:
        yield Here(server, clock)
