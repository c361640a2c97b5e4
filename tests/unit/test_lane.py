"""Answers that stand ready leave at once, and never out of turn: what is not plain takes the ordinary road."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from proxy.server.certificate import context_of
from proxy.server.connection import HEADER_S, TAKE_S, Connection, Server
from proxy.server.lane import Message
from tests.support.clock import Clock
from tests.support.tls import Authority
from tests.support.waiting import turns, until
from tests.support.wire import Gate

BIG = 32 << 20  # more than any socket buffer holds
HOT = b"GET /hot HTTP/1.1\r\nHost: x\r\n\r\n"
BIG_HOT, COLD, HELD = (HOT.replace(b"/hot", path) for path in (b"/big", b"/cold", b"/held"))
AT_ONCE, ORDINARY = b"at once", b"ordinary"
BODIES = {"/hot": AT_ONCE, "/big": bytes(BIG)}


@dataclass
class Handler:
    """Answers what is in BODIES at once while it `is_ready`, and everything on the ordinary road: `/held` when let."""

    gate: Gate = field(default_factory=Gate)
    is_ready: bool = True
    error: Exception | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)

    def at_once(self, message: Message, connection: Connection) -> bytes | None:
        if not self.is_ready or message.path not in BODIES:
            return None
        if self.error is not None:
            raise self.error
        self.seen.append((message.method, connection.client))
        body = BODIES[message.path]
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.rel_url.raw_path == "/held":
            await self.gate.stand()
        await request.read()
        return web.Response(body=ORDINARY)


@dataclass
class House:
    server: Server
    handler: Handler
    clock: Clock
    port: int

    async def connect(self, tls: ssl.SSLContext | None = None) -> "Client":
        return Client(self, *await asyncio.open_connection("localhost", self.port, ssl=tls, family=socket.AF_INET))

    def keep_alive_runs_out(self) -> None:
        self.connection._next_keepalive_close_time = 0.0
        self.connection._process_keepalive()

    @property
    def connection(self) -> Connection:
        """The only one."""
        [one] = self.server.connections
        assert isinstance(one, Connection)
        return one


@dataclass
class Client:
    house: House
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> bytes:
        """The body of the next answer."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            assert head.split()[1] == b"200"
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            return await self.reader.readexactly(length)

    async def ask(self, sent: bytes) -> bytes:
        self.writer.write(sent)
        return await self.answer()

    async def rest(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)


@pytest.fixture
async def house(clock: Clock) -> AsyncIterator[House]:
    handler = Handler()
    server = Server(handler, limit=9, monotonic=clock, keepalive_timeout=100.0)
    bound = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    yield House(server, handler, clock, bound.sockets[0].getsockname()[1])
    handler.gate.open()
    bound.close()
    await server.shutdown(1.0)


@pytest.fixture
async def client(house: House) -> AsyncIterator[Client]:
    client = await house.connect()
    yield client
    await client.close()


async def test_what_stands_ready_is_answered_at_once(house: House, client: Client) -> None:
    """From the first request of a connection on, and between ordinary ones."""
    roads = [await client.ask(sent) for sent in (HOT, HOT, COLD, HOT, COLD, COLD, HOT)]
    assert roads == [AT_ONCE, AT_ONCE, ORDINARY, AT_ONCE, ORDINARY, ORDINARY, AT_ONCE]
    assert house.handler.seen == [("GET", "127.0.0.1")] * 4


async def test_what_does_not_stand_ready_is_asked_for(house: House, client: Client) -> None:
    """The handler decides anew each time."""
    assert await client.ask(HOT) == AT_ONCE
    house.handler.is_ready = False
    assert await client.ask(HOT) == ORDINARY


@pytest.mark.parametrize(
    "sent",
    [
        HOT.replace(b"HTTP/1.1", b"HTTP/1.0"),
        HOT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        HOT.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nbody"),
        HOT.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"),
        HOT.replace(b"\r\n\r\n", b"\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"),
    ],
    ids=["HTTP/1.0", "close", "body", "chunked", "upgrade"],
)
async def test_what_is_not_plain_takes_the_ordinary_road(client: Client, sent: bytes) -> None:
    """Also after a plain one."""
    assert await client.ask(HOT) == AT_ONCE
    assert await client.ask(sent) == ORDINARY


async def test_a_request_in_pieces_is_one(client: Client) -> None:
    """Each byte by itself; the answer comes with the last one."""
    for byte in HOT[:-1]:
        client.writer.write(bytes([byte]))
        await turns()  # a turn of the loop, for a piece of its own
    assert await client.ask(HOT[-1:]) == AT_ONCE


async def test_requests_sent_together_are_answered_in_order(client: Client) -> None:
    """Whatever is ready: who asks for several at once gets them as asked."""
    client.writer.write(COLD + HOT + COLD)
    assert [await client.answer() for _ in range(3)] == [ORDINARY] * 3
    assert await client.ask(HOT) == AT_ONCE


async def test_nothing_overtakes_an_answer_that_takes_long(house: House, client: Client) -> None:
    """A ready answer asked for meanwhile waits for its turn."""
    client.writer.write(HELD)
    await house.handler.gate.reached()
    client.writer.write(HOT)
    await until(lambda: bool(house.connection._messages))
    assert house.handler.seen == []
    house.handler.gate.open()
    assert [await client.answer(), await client.answer()] == [ORDINARY, ORDINARY]


async def test_a_client_that_takes_nothing_holds_one_answer(house: House, client: Client) -> None:
    """What it asks for while an answer waits in our memory is not made: it waits on the ordinary road."""
    client.writer.write(BIG_HOT)
    await until(lambda: bool(house.handler.seen))
    client.writer.write(BIG_HOT)
    await until(lambda: house.connection._request_count == 2)
    client.writer.write(BIG_HOT * 2)
    await until(lambda: house.connection._request_count == 4)
    assert len(house.handler.seen) == 1
    assert len(await client.answer()) == BIG
    assert [await client.answer() for _ in range(3)] == [ORDINARY] * 3


async def test_a_malformed_request_is_refused_as_ever(house: House, client: Client) -> None:
    """After a ready answer too: 400, and the connection is closed."""
    assert await client.ask(HOT) == AT_ONCE
    client.writer.write(b"nonsense\r\n\r\n")
    assert (await client.rest()).startswith(b"HTTP/1.0 400")


async def test_who_sends_no_more_has_its_answer(client: Client) -> None:
    """A request and the end of one side in one segment."""
    client.writer.write(HOT)
    client.writer.write_eof()
    assert (await client.rest()).endswith(AT_ONCE)


async def test_an_answer_counts_as_one_for_idle_time(house: House, client: Client) -> None:
    """The connection waits for its client from then on, no header is unfinished, and its keep-alive begins anew."""
    await client.ask(HOT)
    connection = house.connection
    first = connection.waiting_since
    await until(lambda: asyncio.get_running_loop().time() + 100.0 > first)
    await client.ask(HOT)
    assert connection.waits
    assert connection.waiting_since > first
    house.clock.advance(HEADER_S + 1)
    house.server.tidy()
    assert await client.ask(HOT) == AT_ONCE


async def test_a_keep_alive_that_ran_out_ends_the_connection(house: House, client: Client) -> None:
    """As after an ordinary answer."""
    await client.ask(HOT)
    house.keep_alive_runs_out()
    assert await client.rest() == b""


async def test_a_client_that_takes_nothing_is_dropped_whatever_ended_first(house: House, client: Client) -> None:
    """Its keep-alive runs out before it counts as one that takes nothing: aiohttp closes, and that waits for ever."""
    client.writer.write(BIG_HOT)
    await until(lambda: house.handler.seen)
    house.keep_alive_runs_out()
    assert house.connection.transport is None
    for later in (0.0, TAKE_S, 1.0):
        house.clock.advance(later)
        assert house.server.has_unsent
        house.server.tidy()
    await until(lambda: not house.server.connections)


async def test_a_slow_client_has_its_answer_after_its_keep_alive(house: House, client: Client) -> None:
    """What was given is sent to its end, and then the connection goes."""
    client.writer.write(BIG_HOT)
    await until(lambda: house.handler.seen)
    house.keep_alive_runs_out()
    assert len(await client.answer()) == BIG
    assert await client.rest() == b""


async def test_an_error_behind_a_ready_answer_is_told_and_costs_nothing(house: House, client: Client) -> None:
    """The ordinary road answers; the log has the trace."""
    house.handler.error = ValueError("an answer that cannot be told")
    with capture_logs() as said:
        assert await client.ask(HOT) == ORDINARY
    assert [(line["event"], line["log_level"]) for line in said] == [("a ready answer failed", "error")]


async def test_a_client_at_a_name_without_a_file_is_told_as_text(house: House, short_tmp: Path) -> None:
    """An abstract Unix address comes as bytes, which no log line can hold."""
    bound = await asyncio.get_running_loop().create_unix_server(house.server, short_tmp / "socket")
    caller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    caller.setblocking(False)
    caller.bind(f"\0cistern-{uuid4()}")
    await asyncio.get_running_loop().sock_connect(caller, str(short_tmp / "socket"))
    client = Client(house, *await asyncio.open_unix_connection(sock=caller))
    assert await client.ask(HOT) == AT_ONCE
    assert "cistern-" in house.handler.seen[0][1]
    await client.close()
    bound.close()


async def test_over_tls_one_answer_is_held_too(house: House, tmp_path: Path) -> None:
    """What the layer of TLS has handed down, and the socket does not take, counts as not taken."""
    authority = Authority(tmp_path)
    bound = await asyncio.get_running_loop().create_server(
        house.server, "127.0.0.1", 0, ssl=context_of(*authority.files(tmp_path, "localhost"))
    )
    house.port = bound.sockets[0].getsockname()[1]
    client = await house.connect(authority.client())
    assert await client.ask(COLD) == ORDINARY
    client.writer.write(BIG_HOT)
    await until(lambda: house.handler.seen)
    client.writer.write(BIG_HOT)
    await until(lambda: house.connection._request_count == 3)
    assert len(house.handler.seen) == 1
    assert len(await client.answer()) == BIG
    assert await client.answer() == ORDINARY
    await client.close()
    bound.close()


async def test_a_body_that_comes_late_is_no_unfinished_header(house: House, client: Client) -> None:
    """The rest of a request counts for its own answer, and not for the next header."""
    client.writer.write(HELD.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\n"))
    await house.handler.gate.reached()
    client.writer.write(b"body")
    house.handler.gate.open()
    assert await client.answer() == ORDINARY
    house.clock.advance(HEADER_S + 1)
    house.server.tidy()
    assert await client.ask(HOT) == AT_ONCE
