"""Files to sockets: every byte, in order, to nobody else."""

import asyncio
import errno
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from io import FileIO

import pytest

from proxy.server.outlet import NO_SENDFILE, PROBE, is_cached, outlet, read_in, told
from tests.support.filed import SIZE, drop
from tests.support.leaks import open_files
from tests.support.waiting import turns, until


@dataclass(slots=True)
class Pair:
    """A transport, and its client's end: a socket whose buffers are small."""

    transport: asyncio.Transport
    client: socket.socket

    async def read(self, count: int) -> bytes:
        got = b""
        while len(got) < count:
            piece = await asyncio.get_running_loop().sock_recv(self.client, min(65536, count - len(got)))
            if not piece:
                break
            got += piece
        return got

    async def reading(self) -> None:
        """Return once the transport has stopped reading: somebody sends, and waits for the client."""
        await until(lambda: not self.transport.is_reading())


@asynccontextmanager
async def connected() -> AsyncIterator[Pair]:
    ours, client = socket.socketpair()
    client.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=ours)
    try:
        yield Pair(transport, client)
    finally:
        if not transport.is_closing():
            transport.abort()
        client.close()
        await turns()


@contextmanager
def counted_descriptors() -> Iterator[None]:
    """Inside, as many descriptors are closed as are opened."""
    before = open_files()
    yield
    assert open_files() == before


async def test_a_slow_client_gets_every_byte(file: FileIO, content: bytes) -> None:
    """From anywhere in the file, however little its socket takes at a time; the transport reads on afterwards."""
    async with connected() as pair:
        with counted_descriptors(), outlet(pair.transport) as out:
            assert out is not None
            sending = asyncio.ensure_future(out.send(file, 1000, SIZE - 1000))
            assert await pair.read(SIZE - 1000) == content[1000:]
            assert await sending == SIZE - 1000
            assert pair.transport.is_reading()


async def test_who_had_stopped_reading_reads_no_more(file: FileIO, content: bytes) -> None:
    """aiohttp holds a connection whose requests have filled its queue: it alone lets it go on."""
    async with connected() as pair:
        pair.transport.pause_reading()
        with outlet(pair.transport) as out:
            assert out is not None
            sending = asyncio.ensure_future(out.send(file, 0, SIZE))
            assert await pair.read(SIZE) == content
            assert await sending == SIZE
        assert not pair.transport.is_reading()


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT])
def test_a_client_that_is_lost_is_no_fault_of_the_disk(number: int) -> None:
    """Whatever the network says of it."""
    assert isinstance(told(OSError(number, "gone"), 5), ConnectionError)


def test_what_has_begun_by_sendfile_is_not_begun_again() -> None:
    """A file system without it is copied from; one that gives up on the way has a fault."""
    refusal = OSError(errno.EINVAL, "no")
    assert told(refusal, 0) is refusal
    assert told(refusal, 1).errno == errno.EIO


async def test_no_descriptor_left_is_no_outlet() -> None:
    """Bytes pass through this process then: that needs no other one."""
    async with connected() as pair:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with outlet(pair.transport) as out:
                assert out is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_what_fits_is_sent_at_once(file: FileIO, content: bytes) -> None:
    """Without a turn of the loop."""
    async with connected() as pair:
        with outlet(pair.transport) as out:
            assert out is not None
            assert await out.send(file, 5, 100) == 100
        assert await pair.read(100) == content[5:105]


async def test_a_file_that_ends_is_told(file: FileIO, content: bytes) -> None:
    """By the count: what was promised and is not there is the caller's to judge."""
    async with connected() as pair:
        with outlet(pair.transport) as out:
            assert out is not None
            sending = asyncio.ensure_future(out.send(file, 0, SIZE + 1))
            assert await pair.read(SIZE) == content
            assert await sending == SIZE
            assert await out.send(file, SIZE, 1) == 0


async def test_a_client_that_leaves_is_told(file: FileIO) -> None:
    """As a connection's end, which is no fault of the file."""
    async with connected() as pair:
        with counted_descriptors(), outlet(pair.transport) as out:
            assert out is not None
            sending = asyncio.ensure_future(out.send(file, 0, SIZE))
            await pair.reading()
            pair.client.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ConnectionError):
                await sending


async def test_what_is_cancelled_sends_no_more(file: FileIO, content: bytes) -> None:
    """Nothing of it is left in the loop, and what the client asks next is heard."""
    async with connected() as pair:
        with counted_descriptors(), outlet(pair.transport) as out:
            assert out is not None
            sending = asyncio.ensure_future(out.send(file, 0, SIZE))
            await pair.reading()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert pair.transport.is_reading()
        pair.transport.write(b"end")
        pair.transport.close()
        got = await pair.read(SIZE)
        assert got.endswith(b"end")
        assert content.startswith(got[:-3])


async def test_no_byte_goes_to_who_gets_the_closed_socket_s_number(file: FileIO) -> None:
    """A connection that is closed under a sending gives its number to the next one."""
    async with connected() as pair:
        with outlet(pair.transport) as out:
            assert out is not None
            number = pair.transport.get_extra_info("socket").fileno()
            sending = asyncio.ensure_future(out.send(file, 0, SIZE))
            await pair.reading()
            pair.transport.abort()
            await turns()
            strangers = socket.socketpair()
            assert number in [one.fileno() for one in strangers]  # the lowest that is free
            await pair.read(200_000)
            for one in strangers:
                one.setblocking(False)
                with pytest.raises(BlockingIOError):
                    one.recv(1)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            for one in strangers:
                one.close()


async def test_nobody_there_is_no_outlet() -> None:
    """A transport that is gone or going."""
    async with connected() as pair:
        pair.transport.close()
        with outlet(pair.transport) as out:
            assert out is None
    with outlet(None) as out:
        assert out is None


async def test_a_file_system_without_sendfile_says_so() -> None:
    """In one of the ways that the sender knows."""
    async with connected() as pair:
        with FileIO("/proc/self/cmdline") as strange, outlet(pair.transport) as out:
            assert out is not None
            with pytest.raises(OSError, match="Invalid argument") as failed:
                await out.send(strange, 0, 10)
            assert failed.value.errno in NO_SENDFILE


# The page cache


def test_what_the_page_cache_lacks_is_seen(file: FileIO) -> None:
    """Anywhere a look falls; and brought in, it is there."""
    assert is_cached(file, 0, SIZE)
    drop(file)
    assert not is_cached(file, 0, SIZE)
    assert not is_cached(file, 2 * PROBE, 100)
    read_in(file, 0, SIZE)
    assert is_cached(file, 0, SIZE)


def test_a_file_system_that_cannot_tell_is_believed() -> None:
    """It is sent from as it is."""
    with FileIO("/proc/self/cmdline") as strange:
        assert is_cached(strange, 0, 100)
