"""A server whose connections a test counts, ages by its clock, and keeps waiting for an answer."""

import asyncio
import socket
from dataclasses import dataclass, field

from proxy.server.connection import Connection, Server
from tests.support.clock import Clock
from tests.support.waiting import until
from tests.support.wire import Gate

LIMIT = 4
BIG = 32 << 20  # more than any socket buffer holds
WHOLE = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class House:
    """A server whose handler answers the path: `/held` once the gate opens, `/big` more than a client takes."""

    server: Server
    clock: Clock
    gate: Gate
    port: int
    clients: list[Stream] = field(default_factory=list)

    async def connect(self, sent: bytes = b"", window: int = 0) -> Stream:
        """A client that has sent `sent`, when the server has read it. `window`: the bytes that its kernel holds for it,
        0 for as many as it likes.
        """
        before = set(self.server.connections)
        ours = socket.socket()
        ours.setblocking(False)
        if window:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        await asyncio.get_running_loop().sock_connect(ours, ("127.0.0.1", self.port))
        client = await asyncio.open_connection(sock=ours, limit=window or 2**16)
        self.clients.append(client)
        await until(lambda: bool(set(self.server.connections) - before))
        if sent:
            await self.send(client, sent)
        return client

    async def send(self, client: Stream, sent: bytes) -> None:
        """Send bytes, and wait until the server has read them."""
        served = self.served(client)
        before = served.pieces
        client[1].write(sent)
        await until(lambda: served.pieces > before)

    def served(self, client: Stream) -> "Counting":
        """The server's end of a client's connection."""
        name = client[1].get_extra_info("sockname")
        found = [one for one in self.server.connections if one.peername == name]
        assert len(found) == 1
        assert isinstance(found[0], Counting)
        return found[0]

    async def answered(self) -> Stream:
        """A client that got an answer, and keeps its connection."""
        reader, writer = await self.connect(WHOLE)
        await reader.readuntil(b"/v2/")
        await until(lambda: self.served((reader, writer)).waits)
        return reader, writer

    def tidy_after(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.server.tidy()


class Counting(Connection):
    """A connection that counts what it has read, for tests to wait for."""

    pieces = 0

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.pieces += 1


class CountingServer(Server):
    def __call__(self) -> Connection:
        return Counting(self)
