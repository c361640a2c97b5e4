"""The rest of a long body, received straight into large buffers instead of through aiohttp's reader.

aiohttp parses the head and frames the body; of a body whose length is told nothing is left to parse. Its reader would
give it in small pieces, and copy each once more. The connection is not used again, since aiohttp's parser has not seen
the body's end: a handshake for the next one, so this is for long bodies only.
"""

import asyncio
from collections import deque
from typing import Final

import aiohttp

from proxy.upstream.base import Buffer

LEAST: Final = 32 << 20  # bytes still to come
SPARE: Final = 4  # buffers; a new one is zeroed and its pages touched: a twentieth of a cold blob's CPU (measured)
BUFFER: Final = 1 << 20  # bytes: few turns of the loop for a body, and little that whoever keeps a slice holds
ROOM: Final = 128 << 10  # a buffer with less counts as full: many short reads cost more than a new buffer


class Intake(asyncio.BufferedProtocol):
    """Receives the `left` bytes that a body still lacks; `take` gives them in order, after those that came `early`.

    Invariant: it holds one buffer at most, and what was taken no more than one beside its own bytes; while that is full
    nothing is read. SPARE more wait for those who took of them to let go, and are filled again then, never before.
    """

    def __init__(self, transport: asyncio.Transport, handler: asyncio.BaseProtocol, early: bytes, left: int) -> None:
        self._transport = transport
        self._handler = handler  # aiohttp's: it hears of the connection's end as before
        self._early = early
        self._left = left
        self._given_away: deque[bytearray] = deque(maxlen=SPARE)
        self._buffer = self._fresh()
        self._given = self._filled = 0  # of the buffer: up to where it was taken, and received
        self._is_paused = False
        self._is_lost = False
        self._waiter: asyncio.Future[None] | None = None

    @classmethod
    def instead_of_reader(cls, response: aiohttp.ClientResponse, length: int | None) -> "Intake | None":
        """Take over the connection of an answer, from where its reader stands. `length`: of the body, in bytes.

        None: less than LEAST is to come, or nobody told its length; `response.content` goes on giving it.
        """
        content, connection = response.content, response.connection
        if length is None or length - content.total_bytes < LEAST or response.method != "GET":
            return None
        if connection is None or connection.transport is None or connection.protocol is None:
            return None  # it broke: the reader tells how
        if connection.transport.is_closing():
            return None  # so does it of one that is about to
        if content.exception() is not None or "Transfer-Encoding" in response.headers:
            return None
        early = content.read_nowait()
        intake = cls(connection.transport, connection.protocol, early, length - content.total_bytes)
        connection.transport.set_protocol(intake)
        return intake

    async def take(self) -> Buffer:
        """What has come since, at least a byte; nothing at the body's end. Raises ClientPayloadError on a cut, once all
        that came before it is given.
        """
        if self._early:
            early, self._early = self._early, b""
            return early
        while self._given == self._filled:
            if self._left == 0:
                return b""
            if self._is_lost:
                raise aiohttp.ClientPayloadError("the connection ended before the body")
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        # Slices of one buffer until it is full: whoever holds a slice holds the whole.
        taken = self._buffer[self._given : self._filled]
        self._given = self._filled
        if self._is_full:
            self._buffer, self._given, self._filled = self._fresh(), 0, 0
        if self._is_paused and self._left and not self._is_lost:
            self._is_paused = False
            self._transport.resume_reading()
        return taken

    @property
    def _is_full(self) -> bool:
        return len(self._buffer) - self._filled < min(ROOM, self._left)

    def _fresh(self) -> memoryview:
        """A buffer that nobody looks at: the oldest one that was given away if it is one, else a new one."""
        if self._given_away and _is_free(self._given_away[0]):
            room = self._given_away.popleft()
        else:
            room = bytearray(min(BUFFER, self._left))
        self._given_away.append(room)
        return memoryview(room)[: self._left]

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What asyncio calls.

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._left -= nbytes
        if self._is_full or not self._left:
            self._is_paused = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        self._handler.connection_lost(exc)
        self._wake()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()


def _is_free(room: bytearray) -> bool:
    """Whether no view of it is left: one that has any cannot change its length (buffer protocol, `BufferError`)."""
    try:
        room.append(room.pop())
    except BufferError:
        return False
    return True
