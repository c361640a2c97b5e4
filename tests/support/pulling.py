"""One HTTP/1.1 client request on a socket of its own, read as slowly as a test wants, and left when it wants."""

import asyncio
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from multidict import CIMultiDict

HEAD_MAX = 256 * 1024


@dataclass(slots=True)
class Pulling:
    """A request under way. `body` is what has been read so far; `whole` says that it ended as its head announced."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    method: str
    status: int = 0
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: bytearray = field(default_factory=bytearray)

    @classmethod
    async def start(
        cls, netloc: str, target: str, *, method: str = "GET", headers: dict[str, str] | None = None, window: int = 0
    ) -> "Pulling":
        """Send the request; nothing is read yet. `window` is the receive buffer in bytes, 0 the system's own."""
        host, _, port = netloc.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=window or 2**16)
        sent = {"Host": netloc} | (headers or {})
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        await writer.drain()
        return cls(reader, writer, method)

    async def head(self) -> int:
        """Read the status line and the headers; the status."""
        if self.status:
            return self.status
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = raw.rstrip("\r\n").split("\r\n")
        self.status = int(first.split(" ", 2)[1])
        self.headers = CIMultiDict((name, value.strip()) for name, _, value in (line.partition(":") for line in lines))
        return self.status

    @property
    def length(self) -> int | None:
        """The announced Content-Length."""
        return int(self.headers["Content-Length"]) if "Content-Length" in self.headers else None

    async def read(self, count: int) -> bytes:
        """Read exactly `count` more body bytes, fewer only if the connection ended."""
        await self.head()
        got = b""
        while len(got) < count and (piece := await self.reader.read(count - len(got))):
            got += piece
        self.body += got
        return got

    async def rest(self) -> bytes:
        """Read the whole body and close. Raises ConnectionError when it ended before its announced length."""
        try:
            await self.head()
            if self.length is not None and self.method != "HEAD" and self.status != 304:
                await self.read(self.length - len(self.body))
                if len(self.body) < self.length:
                    raise ConnectionError(f"the body ended after {len(self.body)} of {self.length} bytes")
            elif "chunked" in self.headers.get("Transfer-Encoding", ""):
                await self._chunks()
        finally:
            await self.leave()
        return bytes(self.body)

    async def _chunks(self) -> None:
        while True:
            line = await self.reader.readline()
            if not line:
                raise ConnectionError("the last chunk never came")
            size = int(line, 16)
            self.body += await self.reader.readexactly(size + 2)
            del self.body[-2:]
            if not size:
                return

    def vanish(self) -> None:
        """Reset the connection: unlike a close, which half of one looks like, this says that nobody waits any more."""
        bound: socket.socket = self.writer.get_extra_info("socket")
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def leave(self) -> None:
        """Close the connection, whatever was read."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


async def one_after_another(netloc: str, target: str, methods: Sequence[str]) -> list[bytes]:
    """The bodies of answers 200 over one kept connection; none to HEAD, behind whose head the next status line must
    stand. AssertionError: something else does.
    """
    bodies: list[bytes] = []
    reader, writer = await asyncio.open_connection(*netloc.split(":"))
    for method in methods:
        writer.write(f"{method} {target} HTTP/1.1\r\nHost: {netloc}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head[:200]
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        bodies.append(b"" if method == "HEAD" else await reader.readexactly(length))
    writer.close()
    await writer.wait_closed()
    return bodies
