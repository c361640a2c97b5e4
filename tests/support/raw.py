"""Sockets with nobody in between: a responder that says what no honest server does, and clients that speak as
containerd 2, stargz and nydus do (protocol 3 and 6).

The clients do to a registry what their originals do on the wire; each returns what it read, and judges nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self

from multidict import CIMultiDict

HEAD_MAX = 256 * 1024
CONTAINERD_HEADER_S = 30.0  # containerd >= 2.3 gives up on an answer without a head after this long (B19)
Response = bytes | Callable[[bytes], bytes]


class RawServer:
    """Answers each request's head with bytes as given, by turns (the last one for ever), and closes after each.

    `endless` is sent again and again behind the response until the peer leaves.
    """

    def __init__(self, *responses: Response, endless: bytes = b"", keep_open: bool = False) -> None:
        self.heads: list[bytes] = []
        self._responses = list(responses)
        self._endless = endless
        self._keep_open = keep_open
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._left = asyncio.Event()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_MAX)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        while self._writers:
            self._left.clear()
            for writer in self._writers:
                writer.transport.abort()
            await self._left.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            response = self._responses.pop(0) if len(self._responses) > 1 else self._responses[0]
            writer.write(response(self.heads[-1]) if callable(response) else response)
            await writer.drain()
            while self._endless:
                writer.write(self._endless)
                await writer.drain()
            if self._keep_open:
                await reader.read()  # until the peer leaves
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the peer left: that is its right
        finally:
            writer.close()
            self._writers.discard(writer)
            self._left.set()


# What no honest server says; each is a whole response.

LF_ONLY = b"HTTP/1.1 429 Too Many Requests\nContent-Type: text/plain\nContent-Length: 17\n\nToo Many Requests"
ENDLESS_HEADERS = b"HTTP/1.1 200 OK\r\n"  # with endless=ENDLESS_LINE
ENDLESS_LINE = b"X-Filler: " + b"a" * 4000 + b"\r\n"
LONG_HEADER = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: https://x.example/?sig=" + b"a" * 60_000 + b"\r\n\r\n"
NOT_HTTP = b"SSH-2.0-OpenSSH_9.2p1\r\n"
BAD_LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello"
BAD_CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"


def twice_the_length(body: bytes, other: int | None = None) -> bytes:
    """Two Content-Length headers: the same value twice, or `other` in the second."""
    lines = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nContent-Length: {len(body) if other is None else other}"
    return lines.encode() + b"\r\n\r\n" + body


def smuggled(body: bytes) -> bytes:
    """Both a Content-Length and chunked."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n"
    return head.encode() + body + b"\r\n0\r\n\r\n"


def short(body: bytes, declared: int) -> bytes:
    """A body that ends before its Content-Length."""
    return f"HTTP/1.1 200 OK\r\nContent-Length: {declared}\r\n\r\n".encode() + body


# Clients


@dataclass(slots=True)
class Got:
    """What one request read. `whole`: it ended where its Content-Length said; False too for a reader that left."""

    status: int
    headers: CIMultiDict[str]
    body: bytes = b""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class RawClient:
    """One request per connection, to HOST:PORT; `accept_encoding` is sent as Go or containerd send it."""

    netloc: str
    namespace: str | None = None
    accept_encoding: str = "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"
    header_s: float = CONTAINERD_HEADER_S
    extra: tuple[tuple[str, str], ...] = field(default=())

    async def ask(self, method: str, path: str, *, read: int | None = None, **headers: str) -> Got:
        """Send a request; read `read` bytes of its body (None: all) and close, in the middle if need be.

        Raises TimeoutError when no head comes in time, IncompleteReadError when the peer closes without one.
        """
        host, _, port = self.netloc.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=HEAD_MAX)
        try:
            target = path if self.namespace is None else f"{path}{'&' if '?' in path else '?'}ns={self.namespace}"
            sent = {"Host": self.netloc, "Accept-Encoding": self.accept_encoding, **dict(self.extra)}
            sent |= {name.replace("_", "-"): value for name, value in headers.items()}
            lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            async with asyncio.timeout(self.header_s):
                head = await reader.readuntil(b"\r\n\r\n")
            got = _parsed(head)
            if method != "HEAD":
                await _read_body(reader, got, read)
            return got
        finally:
            writer.transport.abort() if read is not None else writer.close()


async def _read_body(reader: asyncio.StreamReader, got: Got, read: int | None) -> None:
    declared = got.headers.get("Content-Length")
    wanted = int(declared) if declared is not None else None
    limit = wanted if read is None else (read if wanted is None else min(read, wanted))
    body = bytearray()
    while limit is None or len(body) < limit:
        piece = await reader.read(65536 if limit is None else min(65536, limit - len(body)))
        if not piece:
            break
        body += piece
    got.body = bytes(body)
    got.whole = wanted is not None and len(body) == wanted


def _parsed(head: bytes) -> Got:
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return Got(int(first.split(" ")[1]), CIMultiDict(fields))


async def containerd_fetch(client: RawClient, path: str, size: int, *, chunk: int, parallel: int) -> list[Got]:
    """containerd >= 2.1 with `concurrent_layer_fetch_buffer`: open-ended ranges `bytes=K-`, `parallel` at a time, each
    closed after `chunk` bytes (B08). Like it, only the first answer's status is looked at: all are returned.
    """
    turns = asyncio.Semaphore(parallel)

    async def fetch(start: int) -> Got:
        async with turns:
            return await client.ask("GET", path, read=min(chunk, size - start), Range=f"bytes={start}-")

    return list(await asyncio.gather(*(fetch(start) for start in range(0, size, chunk))))


@dataclass(frozen=True, slots=True)
class Lazy:
    """What a lazy puller saw: the probe, the HEAD, and the ranges it asked for."""

    probe: Got | None
    head: Got
    ranges: list[Got]


async def stargz_open(client: RawClient, path: str, spans: Sequence[tuple[int, int]]) -> Lazy:
    """stargz: GET `bytes=0-1` and drain it, HEAD for the size, then one GET per (start, stop) (B10)."""
    probe = await client.ask("GET", path, Range="bytes=0-1", Accept_Encoding="identity")
    head = await client.ask("HEAD", path, Accept_Encoding="identity")
    ranges = [
        await client.ask("GET", path, Range=f"bytes={start}-{stop - 1}", Accept_Encoding="identity")
        for start, stop in spans
    ]
    return Lazy(probe, head, ranges)


async def nydus_read(client: RawClient, path: str, spans: Sequence[tuple[int, int]]) -> tuple[Lazy, bytes]:
    """nydus: HEAD for the size, then exact ranges; it copies the body of any 200 or 206 into its buffer as if it were
    the range asked for (B09). The bytes returned are that buffer, spans one after another.
    """
    head = await client.ask("HEAD", path)
    ranges = [await client.ask("GET", path, Range=f"bytes={start}-{stop - 1}") for start, stop in spans]
    sizes = [stop - start for start, stop in spans]
    return Lazy(None, head, ranges), b"".join(got.body[:size] for got, size in zip(ranges, sizes, strict=True))
