"""Answers from files: no wait of the loop for a disk, and no client that is told less than is true."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from io import FileIO

import pytest
from aiohttp import web

from proxy.config import Address
from proxy.exchange import Exchange
from proxy.oci import Span
from proxy.server.listen import listen
from proxy.server.send import Wire
from proxy.store.threads import Threads
from tests.support.filed import SIZE, drop
from tests.support.pulling import Pulling
from tests.support.waiting import turns


@dataclass(slots=True)
class Plain:
    """A body of one file, all of it ready."""

    file: FileIO
    size: int
    failures: list[OSError] = field(default_factory=list)

    async def ready(self, offset: int) -> int:
        return self.size

    def memory(self, offset: int, end: int) -> memoryview | None:
        return None

    def failed(self, error: OSError) -> None:
        self.failures.append(error)


@asynccontextmanager
async def answering(
    body: Plain, threads: Threads, before: bytes = b"", *, tells_size: bool = True
) -> AsyncIterator[str]:
    """A server that answers everything with `before` and the body; HOST:PORT."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        if tells_size:
            response.content_length = len(before) + body.size
        else:
            response.enable_chunked_encoding()
        await response.prepare(request)
        if before:
            await response.write(before)
        wire = Wire(request, response, threads, Exchange("1", "", "GET"))
        await (wire.send(body, Span(0, body.size)) if tells_size else wire.send_all(body))
        await response.write_eof()
        return response

    listener = await listen(Address("127.0.0.1", 0), answer)
    try:
        yield listener.url.removeprefix("http://")
    finally:
        await listener.close()


async def test_the_loop_waits_for_no_disk(file: FileIO, content: bytes, threads: Threads) -> None:
    """What is not in memory is a thread's to wait for: no byte leaves while that thread is held up elsewhere."""
    drop(file)
    gate = threading.Event()
    holding = asyncio.ensure_future(threads.disk(gate.wait))
    async with answering(Plain(file, SIZE), threads) as netloc:
        pulling = await Pulling.start(netloc, "/")
        assert await pulling.head() == 200
        reading = asyncio.ensure_future(pulling.rest())
        await turns(20)
        assert not pulling.body
        gate.set()
        assert await reading == content
    await holding


async def test_a_disk_that_gives_nothing_drops_its_client(file: FileIO) -> None:
    """Who asks again is served from elsewhere."""
    drop(file)
    gate = threading.Event()
    async with Threads(disk=1, hashing=1, answer_within_s=0.0) as threads:
        holding = asyncio.ensure_future(threads.disk(gate.wait))
        async with answering(Plain(file, SIZE), threads) as netloc:
            pulling = await Pulling.start(netloc, "/")
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await pulling.rest()
        gate.set()
        await holding


async def test_a_file_comes_behind_what_was_written_before(file: FileIO, content: bytes, threads: Threads) -> None:
    """Also where the client has not taken that yet."""
    before = os.urandom(16 << 20)
    async with answering(Plain(file, SIZE), threads, before) as netloc:
        pulling = await Pulling.start(netloc, "/")
        assert await pulling.rest() == before + content


async def test_a_body_without_sendfile_is_copied(threads: Threads) -> None:
    """The same bytes, by way of this process; nothing is wrong with its disk."""
    with FileIO("/proc/self/cmdline") as strange:
        expected = strange.readall()
        body = Plain(strange, len(expected))
        async with answering(body, threads) as netloc:
            pulling = await Pulling.start(netloc, "/")
            assert await pulling.rest() == expected
        assert body.failures == []


async def test_a_chunked_body_that_is_shorter_than_promised_never_ends(
    file: FileIO, content: bytes, threads: Threads
) -> None:
    """Its last chunk would say that all is there."""
    body = Plain(file, SIZE + 10)
    async with answering(body, threads, tells_size=False) as netloc:
        pulling = await Pulling.start(netloc, "/")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError, ValueError)):
            await pulling.rest()
        assert pulling.body == content
    assert len(body.failures) == 1


async def test_a_file_that_is_shorter_than_promised_is_told(file: FileIO, content: bytes, threads: Threads) -> None:
    """To its store; the client is dropped, and never told that this was all."""
    body = Plain(file, SIZE + 10)
    async with answering(body, threads) as netloc:
        pulling = await Pulling.start(netloc, "/")
        with pytest.raises(ConnectionError):
            await pulling.rest()
        assert pulling.body == content
    assert len(body.failures) == 1
