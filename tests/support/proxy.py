"""The whole proxy in this process, on a real socket: what journeys and crowds pull through."""

import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxy.app import Rooms, World, open_rooms, registry_of
from proxy.config import Address, parse
from proxy.exchange import Exchange
from proxy.oci import Digest
from proxy.server.listen import Listener, listen
from proxy.store.filesystem import Filesystem
from proxy.upstream.dialler import Resolver
from tests.support.clock import Clock
from tests.support.images import Blob
from tests.support.pulling import Pulling
from tests.support.site import Site

UPSTREAM = "origin.test"


class AlwaysReady:
    """Probes of a proxy that has no health room."""

    def live(self) -> bool:
        return True

    def ready(self) -> bool:
        return True

    def rule(self, name: str) -> bool | None:
        return True if name == UPSTREAM else None


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: Any
    body: bytes

    @property
    def code(self) -> str:
        """The OCI code of an error."""
        return str(json.loads(self.body)["errors"][0]["code"])


@dataclass(slots=True)
class Proxy:
    """A running proxy; `exchanges` are its finished requests, `heard` the events of the kinds a test asked to hear."""

    rooms: Rooms
    listener: Listener
    exchanges: list[Exchange] = field(default_factory=list)
    heard: list[object] = field(default_factory=list)

    @property
    def netloc(self) -> str:
        return self.listener.url.removeprefix("http://")

    def hear(self, *kinds: type[Any]) -> None:
        for kind in kinds:
            self.rooms.events.listen(kind, self.heard.append)

    async def start(self, path: str, *, method: str = "GET", **headers: str) -> Pulling:
        """Send a request for `/v2/UPSTREAM/PATH`, or for `path` itself if it starts with a slash."""
        target = path if path.startswith("/") else f"/v2/{UPSTREAM}/{path}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await Pulling.start(self.netloc, target, method=method, headers=named)

    async def ask(self, path: str, *, method: str = "GET", **headers: str) -> Reply:
        """A request, to its end. Raises ConnectionError when the body was cut."""
        pulling = await self.start(path, method=method, **headers)
        body = await pulling.rest()
        return Reply(pulling.status, pulling.headers, body)

    async def pull(self, blob: Blob, repository: str = "team/app", **headers: str) -> Reply:
        return await self.ask(f"{repository}/blobs/{blob.digest}", **headers)

    async def start_pull(self, blob: Blob, repository: str = "team/app", **headers: str) -> Pulling:
        return await self.start(f"{repository}/blobs/{blob.digest}", **headers)

    async def quiet(self) -> None:
        """Wait until no transfer runs."""
        await self.rooms.downloads.idle()

    def stored(self, digest: Digest) -> bytes | None:
        """The bytes of a blob in the store, None if it is not there."""
        path = self.rooms.disk.blobs.path_of(digest)
        return path.read_bytes() if path.exists() else None


def config_text(cache: Path, upstream: Site | str, extra: str = "", **upstream_keys: object) -> str:
    """A config with one upstream, `origin.test`, at a loopback URL."""
    url = upstream if isinstance(upstream, str) else upstream.url
    keys = {"endpoints": [{"url": url}], "plain_http": url.startswith("http:"), **upstream_keys}
    return f"cache: {{directory: {cache}}}\nupstreams: {{{UPSTREAM}: {json.dumps(keys)}}}\n{extra}"


@asynccontextmanager
async def running(
    text: str,
    clock: Callable[[], float] = time.time,
    resolver: Resolver | None = None,
    rng: Callable[[], float] = random.random,
    files: Filesystem | None = None,
) -> AsyncIterator[Proxy]:
    """A proxy with this config. `clock` stands for the time of day, `resolver` for name look-ups, `rng` for chance,
    `files` for the calls that change its directory. A Clock that is turned on turns monotonic time on with it.
    """
    config = parse(text, "test.yaml", {})
    given = World(
        clock=clock,
        monotonic=clock.monotonic if isinstance(clock, Clock) else time.monotonic,
        resolver=resolver,
        rng=rng,
        files=files or Filesystem(),
    )
    exchanges: list[Exchange] = []
    async with open_rooms(config, given) as rooms:
        handler = registry_of(rooms, AlwaysReady(), exchanges.append)
        listener = await listen(
            Address("127.0.0.1", 0), handler, max_connections=config.limits.max_connections, monotonic=clock
        )
        try:
            yield Proxy(rooms, listener, exchanges)
        finally:
            await listener.close()


@asynccontextmanager
async def proxied(
    cache: Path, upstream: Site | str, clock: Callable[[], float] = time.time, extra: str = "", **upstream_keys: object
) -> AsyncIterator[Proxy]:
    """A proxy in front of one upstream."""
    async with running(config_text(cache, upstream, extra, **upstream_keys), clock) as proxy:
        yield proxy
