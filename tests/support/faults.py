"""A TCP fault proxy: stands between two peers and spoils the road, not the words; turned by hand while bytes flow.

Knows bytes and connections, nothing of HTTP. The toxics are toxiproxy's: latency, bandwidth, cut, reset, stall, refuse.
Invariant: after `stop` no task and no socket of it is left.
"""

import asyncio
import enum
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from proxy.downloads.bell import Bell
from proxy.tasks import Tasks
from tests.support.waiting import seen

PIECE = 16 * 1024
LISTENING = "0A"
RESET = struct.pack("ii", 1, 0)


class End(enum.Enum):
    """How a connection ends when its bytes have run out: with FIN on both sides, by RST, or towards the client only."""

    CLOSE = "close"
    RESET = "reset"
    HALF = "half"


@dataclass(slots=True)
class Road:
    """One direction. Set any field at any time; the next piece of bytes obeys it.

    `latency_s` before each piece; `bytes_per_s` is a token bucket of one piece, shared by all connections; after
    `cut_after` bytes of a connection it ends as `end` says, so often as `cuts` says; None is off, or without a limit.
    """

    latency_s: float = 0.0
    bytes_per_s: float | None = None
    cut_after: int | None = None
    cuts: int | None = None
    end: End = End.CLOSE
    carried_bytes: int = 0
    _due_s: float = 0.0

    def wait_s(self, size: int, now: float) -> float:
        """How long a piece of `size` bytes has to wait, seen at loop time `now`."""
        if self.bytes_per_s is None:
            return self.latency_s
        due = max(now, self._due_s)
        self._due_s = due + size / self.bytes_per_s
        return self.latency_s + due - now

    def heal(self) -> None:
        """Carry everything at once from now on; what was cut stays cut."""
        self.latency_s, self.bytes_per_s, self.cut_after, self.cuts, self.end = 0.0, None, None, None, End.CLOSE

    def count_cut(self) -> None:
        """One connection was cut: the last one of `cuts` heals the road for those to come."""
        if self.cuts is not None:
            self.cuts -= 1
            if self.cuts <= 0:
                self.cut_after = self.cuts = None


class FaultProxy:
    """Listens on loopback and carries bytes to `target`. `down` is towards the client, `up` towards the target."""

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.up, self.down = Road(), Road()
        self.connections = 0
        self.refusing = False
        self.refuse_next = 0  # so many connections are reset as they come, whatever `refusing` says
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._stalled = asyncio.Event()
        self._moved = Bell()
        self._tasks = Tasks()
        self._server: asyncio.Server | None = None
        self._port = 0
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        return self._port

    @property
    def netloc(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.netloc}"

    async def start(self) -> None:
        """Listen; the first time on a free port, later on the same."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Break every connection and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.reset()
        await self._tasks.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Turned by hand

    def stall(self) -> None:
        """Carry nothing in either direction until `flow`; connections stay open and are accepted."""
        self._stalled.clear()
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    async def stalled(self) -> None:
        """Wait until a connection or bytes have arrived that are held back."""
        await self._stalled.wait()

    async def carried(self, road: Road, count: int) -> None:
        """Wait until a road has carried `count` bytes in all."""
        while road.carried_bytes < count:
            await self._moved.wait()

    async def taken(self) -> None:
        """Wait until whoever connects here has read what was carried to it: while it stalls, nothing is on its way."""
        await seen(
            lambda: not (_queued(self._port) or any(end.transport.get_write_buffer_size() for end in self._open)),
            within_s=30.0,
        )

    def heal(self) -> None:
        """No fault any more, for new bytes and new connections."""
        self.up.heal()
        self.down.heal()
        self.refusing, self.refuse_next = False, 0
        self.flow()

    def cut(self) -> None:
        """Close every connection now, with FIN, in both directions."""
        for writer in list(self._open):
            writer.close()

    def reset(self) -> None:
        """Break every connection now, by RST, in both directions."""
        for writer in list(self._open):
            _reset(writer)

    # Carrying

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(writer)
        if self.refusing or self.refuse_next:
            self.refuse_next = max(0, self.refuse_next - 1)
            _reset(writer)
            self._open.discard(writer)
            return
        self._tasks.start(self._connect(reader, writer), name=f"fault proxy to {self.target}", report=False)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._pass()
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            _reset(writer)
            self._open.discard(writer)
            return
        self._open.add(far_writer)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._carry(reader, far_writer, self.up, writer))
                both.create_task(self._carry(far_reader, writer, self.down, far_writer))
        except* (OSError, _Ended):
            pass  # either side broke, or a fault ended it: both ends go
        finally:
            for end in (writer, far_writer):
                end.close()
                self._open.discard(end)

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, road: Road, other: asyncio.StreamWriter
    ) -> None:
        carried = 0
        while piece := await reader.read(PIECE):
            await self._pass()
            wait_s = road.wait_s(len(piece), asyncio.get_running_loop().time())
            if wait_s > 0:
                await asyncio.sleep(wait_s)  # the fault itself is time: this is the road, not a test that waits
            left = len(piece) if road.cut_after is None else max(0, road.cut_after - carried)
            writer.write(piece[:left])
            await writer.drain()
            carried += len(piece[:left])
            road.carried_bytes += len(piece[:left])
            self._moved.ring()
            if left < len(piece) or carried == road.cut_after:
                road.count_cut()
                await self._end(road, writer, other)
        if writer.can_write_eof():
            writer.write_eof()

    async def _pass(self) -> None:
        if not self._flowing.is_set():
            self._stalled.set()
            await self._flowing.wait()

    async def _end(self, road: Road, writer: asyncio.StreamWriter, other: asyncio.StreamWriter) -> None:
        if road.end is End.HALF:
            writer.write_eof()
            await asyncio.Event().wait()  # this direction is over, the other goes on until someone closes
        if road.end is End.RESET:
            _reset(writer)
            _reset(other)
        raise _Ended


class _Ended(Exception):
    """A fault ended the connection."""


def _queued(port: int) -> int:
    """The bytes that wait in the kernel on connections to a port of this machine (proc_pid_net(5))."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, here, there, state, queues, *_ = line.split()
        unsent, unread = (int(count, 16) for count in queues.split(":"))
        if state != LISTENING and here.endswith(f":{port:04X}"):
            total += unsent
        if there.endswith(f":{port:04X}"):
            total += unread
    return total


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None and connection.fileno() != -1:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()
