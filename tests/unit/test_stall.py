"""Who takes nothing is dropped, who takes little is served; whichever way the bytes leave."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import pytest
from aiohttp import web

from proxy.config import Address
from proxy.exchange import Exchange
from proxy.oci import Span
from proxy.server.listen import listen
from proxy.server.send import BodyDropped, Wire
from proxy.server.stall import STALL_S, Patience, waiting
from proxy.store.threads import Threads
from tests.support.tls import Authority
from tests.support.waiting import turns, until

SIZE = 32 << 20
WINDOW = 64 << 10  # of the client's kernel
BITE = 8 * WINDOW  # what it takes at a time: more than its own kernel holds, far less than a block
ROUNDS = 8


@dataclass(slots=True)
class Looked:
    """A clock turned by hand that counts how often it is looked at."""

    now: float = 0.0
    looks: int = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.now

    async def looked(self) -> None:
        """Return once it has been looked at twice more: once at least after all that was before."""
        due = self.looks + 2
        await until(lambda: self.looks >= due)


@pytest.fixture
def clock() -> Looked:
    return Looked()


@pytest.fixture
def patience(clock: Looked) -> Patience:
    """Looks at every turn of the loop."""
    return Patience(look_s=0.0, monotonic=clock)


# The bound


async def test_who_takes_a_little_in_time_is_waited_for(clock: Looked, patience: Patience) -> None:
    """However often; the bound is for one pause, not for the whole."""
    taken = 0
    async with patience.while_taken(lambda: taken):
        for _ in range(10):
            clock.now += STALL_S - 1
            taken += 1
            await clock.looked()


async def test_who_takes_nothing_is_not(clock: Looked, patience: Patience) -> None:
    """Once all of its time is over, and not before."""

    async def take_nothing() -> None:
        async with patience.while_taken(lambda: 0):
            clock.now += STALL_S - 1
            await clock.looked()
            clock.now += 1
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await take_nothing()
    assert clock.now == STALL_S


async def test_nobody_looks_any_more_once_it_is_over(clock: Looked, patience: Patience) -> None:
    """No timer is left behind, also where what was awaited failed."""

    async def fail() -> None:
        async with patience.while_taken(lambda: 0):
            await clock.looked()
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    looks = clock.looks
    await turns(5)
    assert clock.looks == looks


async def test_a_cancellation_is_none_of_its_own(clock: Looked, patience: Patience) -> None:
    """Who is cancelled inside hears that, and no TimeoutError."""

    async def wait() -> None:
        async with patience.while_taken(lambda: 0):
            await asyncio.Event().wait()

    waiter = asyncio.ensure_future(wait())
    await clock.looked()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter


async def test_what_waits_is_counted_here_and_in_the_kernel() -> None:
    """Of nobody, and of who has gone, nothing waits."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, WINDOW)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    assert waiting(None) == waiting(transport) == (0, 0)
    transport.write(bytes(SIZE))
    here, in_kernel = waiting(transport)
    assert 0 < in_kernel < SIZE
    assert 0 < here < SIZE
    theirs.recv(WINDOW)
    assert waiting(transport) < (here, in_kernel)
    transport.abort()
    theirs.close()
    await turns()
    assert waiting(transport) == (0, 0)


# An answer, by each road


@dataclass(slots=True)
class Held:
    """A body of one file, or of memory."""

    file: FileIO
    in_memory: bytes | None
    failures: list[OSError] = field(default_factory=list)

    async def ready(self, offset: int) -> int:
        return SIZE

    def memory(self, offset: int, end: int) -> memoryview | None:
        return None if self.in_memory is None else memoryview(self.in_memory)[offset:end]

    def failed(self, error: OSError) -> None:
        self.failures.append(error)


@dataclass(slots=True)
class Taker:
    """A client that takes as much as it likes, and how its answer ended."""

    reader: asyncio.StreamReader
    ended: "asyncio.Future[BodyDropped | None]"


@asynccontextmanager
async def taking(
    body: Held,
    patience: Patience,
    *,
    is_chunked: bool = False,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
) -> AsyncIterator[Taker]:
    """One client of a server that answers with `body`; its kernel holds WINDOW."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[BodyDropped | None] = loop.create_future()
    server_tls, client_tls = tls or (None, None)
    async with Threads(disk=1, hashing=1) as threads:

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            if is_chunked:
                response.enable_chunked_encoding()
            else:
                response.content_length = SIZE
            await response.prepare(request)
            wire = Wire(request, response, threads, Exchange("1", "", "GET"), patience)
            try:
                await (wire.send_all(body) if is_chunked else wire.send(body, Span(0, SIZE)))
            except BodyDropped as error:
                ended.set_result(error)
                raise
            await response.write_eof()
            ended.set_result(None)
            return response

        listener = await listen(Address("127.0.0.1", 0), answer, server_tls)
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        await loop.sock_connect(client, ("127.0.0.1", int(listener.url.rpartition(":")[2])))
        name = None if client_tls is None else "localhost"
        reader, writer = await asyncio.open_connection(sock=client, limit=WINDOW, ssl=client_tls, server_hostname=name)
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            yield Taker(reader, ended)
        finally:
            writer.transport.abort()
            await listener.close()


@pytest.fixture(params=["sendfile", "memory", "chunked", "tls"])
async def taker(
    request: pytest.FixtureRequest, tmp_path: Path, ca: Authority, patience: Patience
) -> AsyncIterator[Taker]:
    road = request.param
    path = tmp_path / "file"
    with path.open("wb") as made:
        made.truncate(SIZE)
    tls = (ca.server("localhost"), ca.client()) if road == "tls" else None
    with FileIO(path) as file:
        body = Held(file, bytes(SIZE) if road == "memory" else None)
        async with taking(body, patience, is_chunked=road == "chunked", tls=tls) as one:
            yield one
        assert body.failures == []


async def test_a_slow_client_is_served(taker: Taker, clock: Looked) -> None:
    """One that takes half a megabyte in five minutes, and in the end the rest."""
    for _ in range(ROUNDS):
        await taker.reader.readexactly(BITE)
        await clock.looked()
        clock.now += STALL_S - 1
    left = SIZE - ROUNDS * BITE
    while left > 0:
        left -= len(await taker.reader.read(left))
    assert await taker.ended is None


async def test_a_client_that_stalls_is_dropped(taker: Taker, clock: Looked) -> None:
    """After as long a pause, however much it took before."""
    await taker.reader.readexactly(BITE)
    while not taker.ended.done():
        clock.now += STALL_S
        await turns()
    error = await taker.ended
    assert error is not None
    assert str(error) == "the client took nothing for 300 s"
