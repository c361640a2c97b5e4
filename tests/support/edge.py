"""A whole server in this process, with its admin address and control socket: what operators and probes talk to."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from proxy.app import Rooms, World, open_rooms
from proxy.config import parse
from proxy.edge import Edge, open_edge
from proxy.health import Phase
from tests.support.pulling import Pulling


@dataclass(frozen=True, slots=True)
class Told:
    """An answer of the admin address."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """The code of an error."""
        return str(self.json["errors"][0]["code"])


@dataclass(slots=True)
class Serving:
    """A server whose edge is open; `ask` goes to the admin address, `control` to the socket."""

    rooms: Rooms
    edge: Edge

    async def ask(self, path: str, *, method: str = "GET", body: Any = None, **headers: str) -> Told:
        async with aiohttp.ClientSession() as session:
            return await self._ask(session, self.edge.admin.url + path, method, body, headers)

    async def control(self, path: str, *, method: str = "POST", body: Any = None) -> Told:
        socket = self.edge.control.url.removeprefix("unix:")
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(socket)) as session:
            return await self._ask(session, f"http://control{path}", method, body, {})

    async def _ask(
        self, session: aiohttp.ClientSession, url: str, method: str, body: Any, headers: Mapping[str, str]
    ) -> Told:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        async with session.request(method, url, data=data, headers=headers) as answer:
            return Told(answer.status, answer.headers, await answer.text())

    async def start(self, path: str, **headers: str) -> Pulling:
        """A request to the registry address."""
        return await Pulling.start(self.edge.clients.url.removeprefix("http://"), path, headers=headers)

    async def pull(self, path: str) -> int:
        """A whole answer of the registry address; its status."""
        pulling = await self.start(path)
        await pulling.rest()
        return pulling.status

    async def metric(self, name: str, **labels: str) -> float | None:
        """The sum of the samples of a metric that have these labels; None if there is none."""
        found = [
            sample.value
            for family in text_string_to_metric_families((await self.ask("/metrics")).text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None


@asynccontextmanager
async def serving(
    text: str, cache: Path, environ: Mapping[str, str] | None = None, *, world: World | None = None
) -> AsyncIterator[Serving]:
    """A server with this config, on free loopback ports, its cache in `cache`; `world` is its time and chance."""
    flags = {
        "--listen": ("registry.listen", "127.0.0.1:0"),
        "--admin": ("admin.listen", "127.0.0.1:0"),
        "--cache-dir": ("cache.directory", str(cache)),
    }
    config = parse(text, "test.yaml", {}, flags)
    async with open_rooms(config, world or World(environ=environ or {})) as rooms, open_edge(rooms) as edge:
        edge.health.phase = Phase.SERVING
        yield Serving(rooms, edge)
