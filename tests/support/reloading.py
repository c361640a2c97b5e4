"""A server in this process whose configuration is a file that tests rewrite."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.app import World, open_rooms
from proxy.edge import open_edge
from proxy.health import Phase
from proxy.reload import Reload, Source
from tests.support.edge import Serving


@dataclass(slots=True)
class Reloading(Serving):
    """`asked` is what SIGHUP sets; nothing watches or reloads until a test lets it."""

    path: Path
    reload: Reload
    asked: asyncio.Event

    def write(self, text: str) -> None:
        self.path.write_text(text)

    async def take(self, text: str) -> bool:
        """Write a configuration and reload; whether it was taken."""
        self.write(text)
        return await self.reload.reload()


@asynccontextmanager
async def reloading(text: str, home: Path, clock: Callable[[], float] = time.time) -> AsyncIterator[Reloading]:
    """A server of the configuration `text`, on free ports of the loopback, with all it has in `home`. `clock` stands
    for the time of day.
    """
    path, asked = home / "cistern.yaml", asyncio.Event()
    path.write_text(text)
    flags = {
        "--listen": ("registry.listen", "127.0.0.1:0"),
        "--admin": ("admin.listen", "127.0.0.1:0"),
        "--cache-dir": ("cache.directory", str(home / "cache")),
    }
    source = Source(path, {}, flags)
    config = source.load()
    async with open_rooms(config, World(environ={}, clock=clock)) as rooms, open_edge(rooms) as edge:
        reload = Reload(
            source, rooms.current, rooms.upstreams, edge.certificate, rooms.events, rooms.disk.threads, asked=asked
        )
        edge.health.phase = Phase.SERVING
        yield Reloading(rooms, edge, path, reload, asked)
