"""Blobs over TLS: they pass through this process, so the same bytes must come whichever way they were read."""

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.app import registry_of
from proxy.config import Address
from proxy.exchange import Exchange
from proxy.outcome import Result
from proxy.server.certificate import context_of
from proxy.server.listen import listen
from proxy.server.send import COPY, TURN
from tests.support.images import Blob
from tests.support.images import blob as noise
from tests.support.proxy import UPSTREAM, AlwaysReady, Proxy
from tests.support.registry import Registry
from tests.support.tls import Authority

APP = "team/app"
SIZE = 3 * TURN + COPY + 17


@dataclass(slots=True)
class Secure:
    """A registry address with TLS, and what it answered."""

    port: int
    trust: ssl.SSLContext
    exchanges: list[Exchange]

    async def ask(self, digest: object, *headers: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        """A GET of a blob; the connection and the answer's head."""
        reader, writer = await asyncio.open_connection("localhost", self.port, ssl=self.trust, limit=1 << 16)
        lines = [f"GET /v2/{UPSTREAM}/{APP}/blobs/{digest} HTTP/1.1", "Host: x", "Connection: close", *headers]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        return reader, writer, await reader.readuntil(b"\r\n\r\n")

    async def body(self, digest: object, *headers: str) -> bytes:
        """The whole body."""
        reader, writer, _ = await self.ask(digest, *headers)
        body = await reader.read()
        writer.close()
        return body


@asynccontextmanager
async def secured(proxy: Proxy, folder: Path) -> AsyncIterator[Secure]:
    authority = Authority(folder)
    exchanges: list[Exchange] = []
    handler = registry_of(proxy.rooms, AlwaysReady(), exchanges.append)
    context = context_of(*authority.files(folder, "localhost"))
    listener = await listen(Address("127.0.0.1", 0), handler, context)
    try:
        yield Secure(int(listener.url.rpartition(":")[2]), authority.client(), exchanges)
    finally:
        await listener.close()


@pytest.fixture
def blob(registry: Registry) -> Blob:
    made = noise(SIZE)
    registry.add_blob(APP, made)
    return made


async def test_a_blob_is_whole(proxy: Proxy, blob: Blob, tmp_path: Path) -> None:
    """Cold, stored, and dropped from the page cache between: the same bytes."""
    async with secured(proxy, tmp_path) as secure:
        for _ in range(2):
            assert hashlib.sha256(await secure.body(blob.digest)).hexdigest() == blob.digest.encoded
            await proxy.quiet()
        with proxy.rooms.disk.blobs.path_of(blob.digest).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert await secure.body(blob.digest) == blob.data


@pytest.mark.parametrize("start", [0, 1, COPY - 1, COPY, TURN + 5, SIZE - 1])
async def test_a_range_is_exact(proxy: Proxy, blob: Blob, tmp_path: Path, start: int) -> None:
    """A range from anywhere to the end has exactly its bytes."""
    async with secured(proxy, tmp_path) as secure:
        assert await secure.body(blob.digest, f"Range: bytes={start}-") == blob.data[start:]


async def test_a_slow_reader_gets_what_was_read_for_it(proxy: Proxy, blob: Blob, tmp_path: Path) -> None:
    """While a client does not take what was encrypted for it, the buffer it came from is not written over."""
    async with secured(proxy, tmp_path) as secure:
        reader, writer, _ = await secure.ask(blob.digest)
        taken = [await reader.readexactly(1000)]
        fast = await asyncio.gather(*(secure.body(blob.digest) for _ in range(4)))
        taken.append(await reader.read())
        writer.close()
        assert {hashlib.sha256(body).hexdigest() for body in [*fast, b"".join(taken)]} == {blob.digest.encoded}


async def test_a_client_that_leaves_is_noticed(proxy: Proxy, registry: Registry, tmp_path: Path) -> None:
    """Its answer ends as left, not as an error of ours; more than all buffers on the way hold is still unsent then."""
    large = registry.add_blob(APP, noise(32 << 20))
    async with secured(proxy, tmp_path) as secure:
        reader, writer, _ = await secure.ask(large.digest)
        await reader.readexactly(1000)
        writer.transport.abort()
        while Result.LEFT not in {exchange.result for exchange in secure.exchanges}:
            await secure.body(large.digest, "Range: bytes=0-0")
        assert Result.ERROR not in {exchange.result for exchange in secure.exchanges}
        await proxy.quiet()
