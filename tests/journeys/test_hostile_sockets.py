"""Clients whose use of a connection is odd: old, pipelined, half closed, with bodies nobody asked for, or with nothing
to say at all.
"""

import asyncio
import contextlib
import resource
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from proxy.server.connection import HEADER_S
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy
from tests.support.registry import Registry

REPOSITORY = "team/app"
MIB = 1 << 20
CROWD = 2000


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


@pytest.mark.parametrize("state", ["cold", "here"])
@pytest.mark.parametrize("what", ["manifest", "blob"])
async def test_a_half_closed_client_gets_its_answer(
    proxy: Proxy, registry: Registry, line: Line, layer: Blob, what: str, state: str
) -> None:
    """Who sends a request and shuts down its side, as `nc -N` does, gets the whole answer, and then the end."""
    image = registry.add(REPOSITORY, "1", manifest(layer))
    wanted = layer if what == "blob" else image.manifest
    path = path_of(layer) if what == "blob" else f"/v2/{UPSTREAM}/{REPOSITORY}/manifests/1"
    if state == "here":
        await proxy.ask(path)
        await proxy.quiet()
    gate = registry.hold_headers(layer.digest if what == "blob" else "1")
    line.writer.write(request(path))
    line.writer.write_eof()
    if state == "cold":
        await gate.reached()
    gate.open()
    assert await line.answer() == (200, wanted.data)
    assert await line.reader.read() == b""
    line.writer.close()
    await proxy.quiet()


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for both ends of a crowd of connections in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * CROWD + 512
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_thousands_of_unfinished_headers_hold_up_nobody(
    proxy: Proxy, registry: Registry, layer: Blob, clock: Clock
) -> None:
    """2000 connections that never finish a header: a pull beside them works; past their time they are gone (V44)."""
    host, _, port = proxy.netloc.rpartition(":")
    crowd = [await asyncio.open_connection(host, int(port)) for _ in range(CROWD)]
    for number, (_, writer) in enumerate(crowd):
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: "[: number % 40])
    assert (await proxy.pull(layer)).body == layer.data
    assert proxy.listener.connections >= CROWD
    await proxy.quiet()
    clock.advance(HEADER_S + 1)
    assert (await proxy.pull(layer)).body == layer.data
    proxy.listener.tidy()
    for reader, writer in crowd:
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
    assert proxy.listener.connections <= 1


# What h1spec sends (reliability S06), and more: each is refused, or answered as what it is. The parser is lenient with
# three of them, as RFC 9112 section 3 allows for a request line: they are the request that they look like.
ODD_REQUESTS: dict[str, tuple[bytes, set[int]]] = {
    "version 2.0 in the line": (b"GET /v2/ HTTP/2.0\r\nHost: x\r\n\r\n", {200, 505}),
    "version 1.1 in lower case": (b"GET /v2/ http/1.1\r\nHost: x\r\n\r\n", {400}),
    "version without a dot": (b"GET /v2/ HTTP/11\r\nHost: x\r\n\r\n", {400}),
    "no version": (b"GET /v2/\r\nHost: x\r\n\r\n", {200, 400}),
    "no target": (b"GET HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "two spaces": (b"GET  /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", {200, 400}),
    "a space in the target": (b"GET /v2/ /x HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "a tab for a space": (b"GET\t/v2/ HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "a colon in the method": (b"GE:T /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", {400}),
    "lower case method": (b"get /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", {400, 405}),
    "an asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", {400, 404, 405}),
    "no host": (b"GET /v2/ HTTP/1.1\r\n\r\n", {200, 400}),
    "two hosts": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", {400}),
    "header without a name": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n", {400}),
    "header with a space in its name": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX Y: z\r\n\r\n", {400}),
    "space before the first header": (b"GET /v2/ HTTP/1.1\r\n X: y\r\nHost: x\r\n\r\n", {400}),
    "CR alone in a value": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n", {400}),
    "length with a sign": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n", {400}),
    "length with an underscore": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\n", {400}),
    "length of 400 digits": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 400 + b"\r\n\r\n", {400}),
    "length in Arabic digits": (
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: \u0661\r\n\r\n".encode(),
        {400},
    ),
    "unknown transfer coding": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", {400}),
    "chunked not last": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", {400}),
    "chunked twice": (
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        {400},
    ),
    "coding with a control character": (
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        {400},
    ),
    "a WebSocket": (
        b"GET /v2/ HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        {200},
    ),
    "h2c": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n", {200}),
    "the HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 405, 505}),
    "an expectation": (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nExpect: 200-ok\r\n\r\n", {200, 417}),
    "empty lines in front": (b"\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", {200}),
    "CONNECT": (b"CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n\r\n", {400, 405}),
}


@pytest.mark.parametrize("closes", [False, True], ids=["open", "half closed"])
async def test_odd_requests_are_refused_or_answered(proxy: Proxy, registry: Registry, closes: bool) -> None:
    """Each gets one answer of the right kind, half closed or not; the upstream hears nothing of any."""
    found: dict[str, int] = {}
    for name, (sent, _) in ODD_REQUESTS.items():
        host, _, port = proxy.netloc.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(sent)
        if closes:
            writer.write_eof()
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
        assert b"Traceback" not in head
        found[name] = int(head.split(b" ")[1])
        writer.close()
    wrong = {name: status for name, status in found.items() if status not in ODD_REQUESTS[name][1]}
    assert wrong == {}
    assert registry.requests == []


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "foo/2"])
async def test_nothing_behind_an_offered_upgrade_is_a_request(proxy: Proxy, protocol: str) -> None:
    """The parser drops what stands behind it in the same packet: a body that comes later must not be what is asked."""
    offer = f"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    inner = "GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n"
    reader, writer = await asyncio.open_connection(*proxy.netloc.split(":"))
    writer.write(
        f"{offer}PUT /v2/x/blobs/uploads/1 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(inner)}\r\n\r\n".encode()
    )
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        writer.write(inner.encode())
        rest = await reader.read()
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close\r\n" in head.lower()
    assert rest == b"{}"
    writer.close()
