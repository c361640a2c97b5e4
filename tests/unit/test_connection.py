"""How long a client's connection may take, who goes when there are too many, and what is told of it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from proxy.server.connection import HEADER_S, NEWCOMER_S, TAKE_S, TELL_S, TIDY_S
from proxy.server.stall import waiting
from tests.support.clock import Clock
from tests.support.house import BIG, LIMIT, WHOLE, CountingServer, House, Stream
from tests.support.waiting import until
from tests.support.wire import Gate

HELD = b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def house(clock: Clock) -> AsyncIterator[House]:
    gate = Gate()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if path == "/held":
            await gate.stand()
        elif path == "/stream":
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"x")
            await gate.stand()
        return web.Response(body=bytes(BIG) if path == "/big" else path.encode())

    server = CountingServer(handle, limit=LIMIT, monotonic=clock)
    bound = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    made = House(server, clock, gate, bound.sockets[0].getsockname()[1])
    yield made
    gate.open()
    bound.close()
    for _, writer in made.clients:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)
    await server.shutdown(1.0)


async def rest_of(client: Stream) -> bytes:
    """What the server still says before it closes."""
    got = bytearray()
    try:
        async with asyncio.timeout(10):
            while piece := await client[0].read(1 << 20):
                got += piece
    except ConnectionError:
        pass
    return bytes(got)


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET", b"GET /v2/ HTTP/1.1\r\n", WHOLE[:-2], WHOLE[:-1]],
    ids=["nothing", "a word", "a line", "all but the end", "all but a byte"],
)
async def test_a_header_that_is_not_finished_in_time_ends_the_connection(house: House, sent: bytes) -> None:
    """Up to HEADER_S it may come in pieces; past it the connection is closed, whatever was sent (V44)."""
    late, in_time = await house.connect(sent), await house.connect(sent)
    house.tidy_after(HEADER_S)
    await house.send(in_time, WHOLE[len(sent) :])
    assert (await in_time[0].readuntil(b"/v2/")).startswith(b"HTTP/1.1 200")
    house.tidy_after(0.1)
    assert await rest_of(late) == b""
    assert len(house.server.connections) == 1


async def test_a_second_header_has_its_own_time(house: House) -> None:
    """An idle connection stays for the next request; one that begins it and goes on byte by byte does not."""
    await house.answered()
    slow = await house.answered()
    house.tidy_after(HEADER_S + 1)
    assert len(house.server.connections) == 2
    await house.send(slow, b"GET /v2/ HT")
    house.tidy_after(HEADER_S)
    await house.send(slow, b"TP/1.1\r\n")
    house.tidy_after(0.1)
    assert await rest_of(slow) == b""
    assert len(house.server.connections) == 1


async def test_an_answer_that_takes_long_is_not_an_idle_connection(house: House) -> None:
    """Neither time bounds how long a handler works."""
    reader, _ = await house.connect(HELD)
    await house.gate.reached()
    for _ in range(3):
        house.tidy_after(TAKE_S)
    house.gate.open()
    assert (await reader.readuntil(b"/held")).startswith(b"HTTP/1.1 200")


async def test_an_answer_that_nobody_takes_ends(house: House) -> None:
    """A client that reads nothing holds its answer in memory for TAKE_S; each byte it takes begins that time anew."""
    client = await house.connect(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
    transport = house.served(client).transport
    assert transport is not None
    await until(lambda: transport.get_write_buffer_size() > 0)
    house.tidy_after(1)
    house.tidy_after(TAKE_S)
    full = transport.get_write_buffer_size()
    got = len(await client[0].readexactly(8 << 20))
    await until(lambda: transport.get_write_buffer_size() < full)
    before = None
    while before != waiting(transport):  # the kernel still hears of what was taken
        before = waiting(transport)
        house.tidy_after(1)
        house.tidy_after(TAKE_S)
        assert not transport.is_closing()
    house.tidy_after(0.1)
    assert transport.is_closing()
    assert got + len(await rest_of(client)) < BIG


async def test_a_client_that_takes_little_is_not_one_that_takes_nothing(house: House) -> None:
    """Our kernel sees it long before it takes more of what is in our memory."""
    client = await house.connect(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n", window=32 << 10)
    transport = house.served(client).transport
    assert transport is not None
    await until(lambda: transport.get_write_buffer_size() > 0)
    house.tidy_after(1)
    here = transport.get_write_buffer_size()
    for _ in range(2):
        await client[0].readexactly(256 << 10)
        house.tidy_after(TAKE_S + 1)
        assert transport.get_write_buffer_size() == here
        assert not transport.is_closing()


async def test_when_all_places_are_taken_the_longest_idle_goes(house: House) -> None:
    """A newcomer over the limit gets the place of the connection that has waited for its client longest (T24)."""
    clients = [await house.answered() for _ in range(LIMIT)]
    house.clock.advance(NEWCOMER_S)
    await house.answered()
    assert await rest_of(clients[0]) == b""
    assert len(house.server.connections) == LIMIT


async def test_whoever_gets_an_answer_keeps_its_place(house: House) -> None:
    """Where nobody is idle nobody is closed: the gate then says 503. A newcomer has a moment to ask."""
    for _ in range(LIMIT):
        await house.connect(HELD)
    house.clock.advance(NEWCOMER_S)
    first = await house.connect()
    second = await house.connect()
    for client in (first, second):
        await house.send(client, WHOLE)
        assert (await client[0].readuntil(b"/v2/")).startswith(b"HTTP/1.1 200")
    house.gate.open()
    for reader, _ in house.clients[:LIMIT]:
        assert (await reader.readuntil(b"/held")).startswith(b"HTTP/1.1 200")


async def test_a_flood_of_connections_without_requests_is_bounded(house: House) -> None:
    """Even where none of them is older than a moment, at most twice the limit is held."""
    most = 0
    for _ in range(4 * LIMIT):
        await house.connect()
        most = max(most, len(house.server.connections))
    await until(lambda: len(house.server.connections) <= 2 * LIMIT)
    assert most <= 2 * LIMIT + 1


@pytest.mark.parametrize("count", [1, 3])
async def test_a_client_that_sends_no_more_gets_its_answers(house: House, count: int) -> None:
    """Half closed before the answers have begun: all of them come, and then the end."""
    client = await house.connect(HELD * count)
    await house.gate.reached()
    client[1].write_eof()
    await until(lambda: house.served(client)._has_ended)
    house.gate.open()
    for _ in range(count):
        assert (await client[0].readuntil(b"/held")).startswith(b"HTTP/1.1 200")
    await until(lambda: not house.server.connections or house.served(client).waits)
    house.server.tidy()
    assert await rest_of(client) == b""
    await until(lambda: not house.server.connections)


async def test_a_client_that_sends_no_more_and_waits_for_nothing_is_gone(house: House) -> None:
    """Between two requests the end of one side is the end."""
    client = await house.answered()
    client[1].write_eof()
    assert await rest_of(client) == b""
    await until(lambda: not house.server.connections)


async def test_a_client_that_closes_in_mid_body_is_gone_at_once(house: House) -> None:
    """Once headers are out the end of what it sends ends the answer: who stopped early holds nothing (B08)."""
    client = await house.connect(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
    await client[0].readuntil(b"x")
    assert house.gate.waiting == 1
    client[1].write_eof()
    await until(lambda: not house.server.connections)
    assert house.gate.waiting == 0


async def test_what_was_closed_is_told_once_a_minute(house: House) -> None:
    """However many are closed, for one reason or several, the log gets one line a minute, with counts (V45)."""
    line = {"room": "listen", "event": "connections closed", "log_level": "warning", "last_client": "127.0.0.1"}
    with capture_logs() as said:
        for _ in range(LIMIT):
            await house.connect(b"GET")
        house.tidy_after(HEADER_S + 1)
        assert said == [{**line, "unfinished_header": LIMIT}]
        await until(lambda: not house.server.connections)
        for _ in range(50):
            client = await house.connect(b"nonsense\r\n\r\n")
            assert (await rest_of(client)).startswith(b"HTTP/1.0 400")
            await until(lambda: not house.server.connections)
            house.tidy_after(TIDY_S)
        assert len(said) == 1
        house.tidy_after(TELL_S)
        house.tidy_after(TELL_S)
        assert said[1:] == [{**line, "not_HTTP": 50}]


async def test_a_client_that_tries_tls_first_is_no_trouble(house: House) -> None:
    """skopeo and podman speak TLS to a plain port before they fall back (C06): counted as that, and no warning."""
    with capture_logs() as said:
        client = await house.connect(bytes.fromhex("16030100a5010000a10303") + bytes(155) + b"\r\n\r\n")
        assert (await rest_of(client)).startswith(b"HTTP/1.0 400")
        house.tidy_after(TIDY_S)
    assert [(line["log_level"], line.get("TLS_on_a_plain_port")) for line in said] == [("info", 1)]
