"""Clients whose use of a connection is odd: old, pipelined, half closed, with bodies nobody asked for."""

import asyncio
from dataclasses import dataclass

import pytest

from tests.support import script
from tests.support.images import Blob, blob
from tests.support.proxy import UPSTREAM, Proxy
from tests.support.registry import Registry

REPOSITORY = "team/app"
MIB = 1 << 20


@pytest.fixture
def layer(registry: Registry) -> Blob:
    return registry.add_blob(REPOSITORY, blob(300_000))


@dataclass
class Line:
    """One connection, spoken to by hand."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self, *, has_body: bool = True) -> tuple[int, bytes]:
        """The next answer on the connection: its status and its body by Content-Length."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = [line for line in head.split("\r\n") if line.lower().startswith("content-length:")]
        size = int(length[0].split(":")[1]) if length and has_body else 0
        return int(head.split(" ", 2)[1]), await self.reader.readexactly(size)


@pytest.fixture
async def line(proxy: Proxy) -> Line:
    host, _, port = proxy.netloc.rpartition(":")
    return Line(*await asyncio.open_connection(host, int(port), limit=4 * MIB))


def request(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: x", *headers, "", ""]).encode()


def path_of(layer: Blob) -> str:
    return f"/v2/{UPSTREAM}/{REPOSITORY}/blobs/{layer.digest}"


async def test_a_connection_outlives_errors_and_answers_without_bodies(proxy: Proxy, line: Line, layer: Blob) -> None:
    """404, 416, 304, 400, HEAD and 405 each leave the connection in step: the next answer on it is the next one's."""
    path = path_of(layer)
    wanted = [
        (request(path), True, 200),
        (request(path, "Range: bytes=300000-"), True, 416),
        (request(path, f'If-None-Match: "{layer.digest}"'), False, 304),
        (request(path, method="HEAD"), False, 200),
        (request(f"/v2/{UPSTREAM}/none/blobs/{layer.digest}"), True, 404),
        (request(f"/v2/{UPSTREAM}/none/blobs/{layer.digest}", method="HEAD"), False, 404),
        (request(f"/v2/{UPSTREAM}/{REPOSITORY}/blobs/sha256:0"), True, 400),
        (request(path, "Content-Length: 0", method="PUT"), True, 405),
        (request(path, "Range: bytes=1-3"), True, 206),
    ]
    for sent, has_body, status in wanted:
        line.writer.write(sent)
        got, body = await line.answer(has_body=has_body)
        assert got == status, sent
    assert body == layer.data[1:4]
    line.writer.close()


async def test_pipelined_requests_are_answered_in_order(proxy: Proxy, line: Line, layer: Blob) -> None:
    """Five requests sent at once, cold: five answers in the order of the requests, bytes exact."""
    path = path_of(layer)
    starts = [0, 250_000, 7, 299_999, 100_000]
    line.writer.write(b"".join(request(path, f"Range: bytes={start}-") for start in starts))
    for start in starts:
        assert await line.answer() == (206, layer.data[start:])
    line.writer.close()
    await proxy.quiet()


async def test_a_body_that_nobody_asked_for_is_no_second_request(proxy: Proxy, line: Line, layer: Blob) -> None:
    """A GET with a body is answered; its body is not read as a request (no smuggling)."""
    smuggled = request(f"/v2/{UPSTREAM}/{REPOSITORY}/tags/list")
    line.writer.write(request(path_of(layer), f"Content-Length: {len(smuggled)}") + smuggled)
    assert await line.answer() == (200, layer.data)
    line.writer.write(request("/v2/"))
    assert await line.answer() == (200, b"{}")
    line.writer.close()
    assert [exchange.kind for exchange in proxy.exchanges] == ["blob", "other"]
    await proxy.quiet()


async def test_http_1_0_gets_a_blob_of_unknown_size(proxy: Proxy, registry: Registry, line: Line, layer: Blob) -> None:
    """HTTP/1.0 knows no chunks: the answer waits for the size, and is whole."""
    registry.script(layer.digest, script.chunked)
    line.writer.write(request(path_of(layer), version="1.0"))
    assert await line.answer() == (200, layer.data)
    line.writer.close()
    await proxy.quiet()


async def test_a_next_request_behind_a_dropped_body_is_not_answered(
    proxy: Proxy, registry: Registry, line: Line
) -> None:
    """When a body is dropped its connection ends: no answer to the next request can pass for the body's rest."""
    lied = registry.add_blob(REPOSITORY, blob(2 * MIB))
    registry.script(lied.digest, script.spoil(0), times=1)
    line.writer.write(request(path_of(lied)) + request("/v2/"))
    head = await line.reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head
    rest = b""
    try:
        while piece := await line.reader.read(MIB):
            rest += piece
    except ConnectionError:
        pass
    assert len(rest) <= lied.size - 65536
    assert b"HTTP/1.1" not in rest[-4096:]
    line.writer.close()
    await proxy.quiet()


async def test_large_headers_are_read_and_larger_ones_refused(proxy: Proxy, line: Line, layer: Blob) -> None:
    """60 KiB of one header pass, as some tokens need; past 64 KiB it is a 4xx and the connection ends."""
    line.writer.write(request(path_of(layer), f"Authorization: Bearer {'x' * 60_000}"))
    assert await line.answer() == (200, layer.data)
    line.writer.write(request(path_of(layer), f"Authorization: Bearer {'x' * 70_000}"))
    status, _ = await line.answer()
    assert 400 <= status < 500
    assert await line.reader.read() == b""
    line.writer.close()
    await proxy.quiet()
