"""Bytes out: from a file, stored or still growing, to one client, by `sendfile` where the transport can (`outlet`).

Returning early from a handler leaves the client waiting for the missing bytes (measured, aiohttp 3.14.5), so whatever
ends a body early raises ConnectionError here: aiohttp then drops the connection.
"""

import asyncio
import errno
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web

from proxy.errors import CisternError
from proxy.exchange import Exchange
from proxy.oci import Span
from proxy.server.outlet import NO_SENDFILE, Outlet, is_cached, outlet, read_in
from proxy.server.stall import Patience, waiting
from proxy.store.base import ContentBad
from proxy.store.threads import Threads

BLOCK: Final = 4 << 20  # bytes of the first sendfile call
# A client that took a block within BLOCK_FAST_S gets the next one twice as long, up to BLOCK_MAX: each is a turn of its
# own through coroutines and timers, and with blocks of 16 MiB there are a quarter as many as with those of 4.
BLOCK_MAX: Final = 16 << 20
BLOCK_FAST_S: Final = 2.0
# Bytes per read where sendfile cannot serve (TLS, chunked): what is read, encrypted and sent stays in the processor's
# cache. With 1 MiB in a thread each, 16 TLS connections got 0.8 GB per CPU second; read here into one buffer, 1.4.
COPY: Final = 128 << 10
READ_PATIENCE: Final = 6.0  # a disk has so many times longer for a block than for a question
TURN: Final = 1 << 20  # bytes of one client before the others' turn
PATIENCE: Final = Patience()


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
    """One answer whose headers are out: where its body goes. A client that takes nothing for longer than `patience` has
    it is dropped; one that takes little is not.
    """

    request: web.BaseRequest
    response: web.StreamResponse
    threads: Threads
    exchange: Exchange
    patience: Patience = PATIENCE

    async def send(self, body: Body, span: Span) -> None:
        """Send `span`. Raises ConnectionError: the client left, or BodyDropped."""
        with outlet(self.request.transport) as socket:
            await self._send(body, span, socket)

    async def _send(self, body: Body, span: Span, socket: Outlet | None) -> None:
        offset, block, now = span.start, BLOCK, asyncio.get_running_loop().time
        while offset < span.stop:
            end = min(await _ready(body, offset), span.stop, offset + block)
            if end <= offset:
                raise BodyDropped(f"the body ended at byte {offset} of {span.stop}")
            if (data := body.memory(offset, end)) is not None:
                await self._write(data)
                offset += len(data)
                continue
            began = now()
            try:
                if socket is not None and not is_cached(body.file, offset, end - offset):
                    end = min(end, offset + BLOCK)
                    await self._read_in(body.file, offset, end - offset)  # the loop waits for no disk
                sent = await self._block(body.file, offset, end - offset, socket)
            except ConnectionError:
                raise
            except OSError as error:
                body.failed(error)
                raise
            offset = self._counted(body, offset, sent, end)
            block = min(2 * block, BLOCK_MAX) if now() - began < BLOCK_FAST_S else BLOCK

    async def send_all(self, body: Body) -> None:
        """Send a body whose size nobody told (chunked), to its end. Raises as `send` does."""
        offset = 0
        while (end := min(await _ready(body, offset), offset + BLOCK)) > offset:
            if (data := body.memory(offset, end)) is not None:
                await self._write(data)
                offset += len(data)
                continue
            offset = self._counted(body, offset, await self._block(body.file, offset, end - offset, None), end)

    def _counted(self, body: Body, offset: int, sent: int, end: int) -> int:
        """Count what was sent of the file from `offset` on; `end`, if that was all up to there. Raises BodyDropped."""
        self.exchange.sent += sent
        if sent < end - offset:
            body.failed(OSError(errno.EIO, f"it ends at byte {offset + sent}"))
            raise BodyDropped(f"the file ended at byte {offset + sent}, {end} were promised")
        return end

    async def _write(self, data: memoryview) -> None:
        async with self._taking(None):
            await self.response.write(data)
        self.exchange.sent += len(data)

    async def _block(self, file: io.FileIO, offset: int, length: int, socket: Outlet | None) -> int:
        if socket is not None:
            return await self._sendfile(file, offset, length, socket)
        async with self._taking(None):
            return await self._copy(file, offset, length)

    @property
    def _transport(self) -> asyncio.WriteTransport:
        """Where the bytes go. Raises ConnectionResetError."""
        transport = self.request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client left")
        return transport

    @asynccontextmanager
    async def _taking(self, socket: Outlet | None) -> AsyncIterator[None]:
        """While bytes wait for their client. Raises ConnectionResetError, or BodyDropped for one that stalls."""
        transport = self._transport

        def taken() -> tuple[int, ...]:
            given = self.request.writer.output_size + (0 if socket is None else socket.sent)
            return given, *waiting(transport)

        try:
            async with self.patience.while_taken(taken):
                yield
        except TimeoutError:
            raise BodyDropped(f"the client took nothing for {self.patience.stall_s:.0f} s") from None

    async def _sendfile(self, file: io.FileIO, offset: int, length: int, socket: Outlet) -> int:
        transport = self._transport
        if transport.get_write_buffer_size():
            async with self._taking(socket):
                await self._flush(transport)
        try:
            return await socket.send(file, offset, length, lambda: self._taking(socket))
        except OSError as error:
            if error.errno not in NO_SENDFILE:
                raise
        return await self._block(file, offset, length, None)

    async def _flush(self, transport: asyncio.WriteTransport) -> None:
        """Wait until nothing is left in the transport's buffer: what is written to the socket now comes behind it."""
        transport.set_write_buffer_limits(0)
        try:
            await self.request.writer.drain()
        finally:
            transport.set_write_buffer_limits()

    async def _read_in(self, file: io.FileIO, offset: int, length: int) -> None:
        try:
            await self.threads.soon(read_in, file, offset, length, patience=READ_PATIENCE)
        except TimeoutError as cause:
            raise BodyDropped(str(cause)) from cause

    async def _copy(self, file: io.FileIO, offset: int, length: int) -> int:
        """Read and write: user-space TLS and chunked bodies pass through this process."""
        sent, turn, buffer = 0, 0, bytearray(COPY)
        while sent < length:
            view = memoryview(buffer)[: length - sent]
            count = await self._read(file, view, offset + sent)
            if count == 0:
                break
            await self.response.write(view[:count])
            sent += count
            if self._unsent:  # somebody down there still holds on to it
                buffer = bytearray(COPY)
            if sent >= turn + TURN:  # a fast client must not keep the loop from all others
                turn = sent
                await asyncio.sleep(0)
        return sent

    async def _read(self, file: io.FileIO, view: memoryview, offset: int) -> int:
        """What is in the page cache is copied at once, a thread waits for the rest. 0: the file ends here."""
        with suppress(OSError):  # not in memory, or a file system that cannot tell; a disk's own fault is met again
            count = os.preadv(file.fileno(), [view], offset, os.RWF_NOWAIT)
            if count:
                return count
        try:
            return await self.threads.soon(os.preadv, file.fileno(), [view], offset, patience=READ_PATIENCE)
        except TimeoutError as cause:
            raise BodyDropped(str(cause)) from cause

    @property
    def _unsent(self) -> int:
        transport = self.request.transport
        return 0 if transport is None else transport.get_write_buffer_size()


async def _ready(body: Body, offset: int) -> int:
    try:
        return await body.ready(offset)
    except (CisternError, ContentBad) as error:
        raise BodyDropped(str(error)) from error
