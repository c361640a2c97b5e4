"""Bytes out: from a file, stored or still growing, to one client, by `sendfile` where the transport can.

Returning early from a handler leaves the client waiting for the missing bytes (measured, aiohttp 3.14.5), so whatever
ends a body early raises ConnectionError here: aiohttp then drops the connection.
"""

import asyncio
import errno
import io
import os
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web

from proxy.errors import CisternError
from proxy.exchange import Exchange
from proxy.oci import Span
from proxy.store.base import ContentBad
from proxy.store.threads import Threads

BLOCK: Final = 4 << 20  # bytes per sendfile call, so that a stalled client is noticed
BLOCK_TIMEOUT_S: Final = 300.0  # for one block; containerd itself gives up after 5 minutes without progress
COPY: Final = 1 << 20  # bytes per read where sendfile cannot serve (TLS, chunked)


class Body(Protocol):
    """Where the bytes are. `ready(offset)` waits until bytes there may leave and tells where they end for now."""

    @property
    def file(self) -> io.FileIO: ...

    async def ready(self, offset: int) -> int: ...

    def memory(self, offset: int, end: int) -> memoryview | None:
        """What `ready` just found, where memory holds it and no file: at least a byte, perhaps not up to `end`."""

    def failed(self, error: OSError) -> None:
        """Reading `file` met this error."""


class BodyDropped(ConnectionError):
    """The body cannot be finished; the connection must go."""


@dataclass(frozen=True, slots=True)
class Wire:
    """One answer whose headers are out: where its body goes."""

    request: web.BaseRequest
    response: web.StreamResponse
    threads: Threads
    exchange: Exchange

    async def send(self, body: Body, span: Span) -> None:
        """Send `span`. Raises ConnectionError: the client left, or BodyDropped."""
        offset = span.start
        while offset < span.stop:
            end = min(await _ready(body, offset), span.stop, offset + BLOCK)
            if end <= offset:
                raise BodyDropped(f"the body ended at byte {offset} of {span.stop}")
            if (data := body.memory(offset, end)) is not None:
                await self._write(data)
                offset += len(data)
                continue
            try:
                sent = await self._block(body.file, offset, end - offset)
            except OSError as error:
                body.failed(error)
                raise
            self.exchange.sent += sent
            if sent < end - offset:
                body.failed(OSError(errno.EIO, f"it ends at byte {offset + sent}"))
                raise BodyDropped(f"the file ended at byte {offset + sent}, {end} were promised")
            offset = end

    async def send_all(self, body: Body) -> None:
        """Send a body whose size nobody told (chunked), to its end. Raises as `send` does."""
        offset = 0
        while (end := min(await _ready(body, offset), offset + BLOCK)) > offset:
            if (data := body.memory(offset, end)) is not None:
                await self._write(data)
                offset += len(data)
                continue
            self.exchange.sent += await self._copy(body.file, offset, end - offset)
            offset = end

    async def _write(self, data: memoryview) -> None:
        transport = self.request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client left")
        try:
            async with asyncio.timeout(BLOCK_TIMEOUT_S):
                await self.response.write(data)
        except TimeoutError:
            raise BodyDropped(f"the client took less than {len(data)} bytes in {BLOCK_TIMEOUT_S:.0f} s") from None
        self.exchange.sent += len(data)

    async def _block(self, file: io.FileIO, offset: int, length: int) -> int:
        transport = self.request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client left")
        try:
            async with asyncio.timeout(BLOCK_TIMEOUT_S):
                if transport.get_extra_info("sslcontext") is not None:
                    return await self._copy(file, offset, length)
                try:
                    return await asyncio.get_running_loop().sendfile(transport, file, offset, length, fallback=False)
                except asyncio.SendfileNotAvailableError:
                    # Nothing left: a file system without sendfile, or a client that is gone, which a write then tells.
                    return await self._copy(file, offset, length)
        except TimeoutError:
            raise BodyDropped(f"the client took less than {length} bytes in {BLOCK_TIMEOUT_S:.0f} s") from None

    async def _copy(self, file: io.FileIO, offset: int, length: int) -> int:
        """Read and write: user-space TLS and chunked bodies pass through this process."""
        sent = 0
        while sent < length:
            wanted = min(COPY, length - sent)
            data = await self.threads.disk(os.pread, file.fileno(), wanted, offset + sent)
            if not data:
                break
            await self.response.write(data)
            sent += len(data)
        return sent


async def _ready(body: Body, offset: int) -> int:
    try:
        return await body.ready(offset)
    except (CisternError, ContentBad) as error:
        raise BodyDropped(str(error)) from error
