"""Answers of scripted servers, honest or not, and how they go out on the socket.

`send` writes the bytes itself, so that a length may lie, a body may end early and nothing is added behind a test's
back. Knows no registry: what an answer says is `registry`'s business, what a fault makes of it is `script`'s.
Invariant: what was cut or left unfinished never leaves a reusable connection behind.
"""

import asyncio
import itertools
import json
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Literal

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

PIECE = 64 * 1024
Framing = Literal["length", "chunked", "close"]


class Gate:
    """A place where a body stops: `await reached()` until one answer stands there, `open()` to let all go on."""

    def __init__(self) -> None:
        self._reached = asyncio.Event()
        self._open = asyncio.Event()
        self.waiting = 0

    async def reached(self) -> None:
        await self._reached.wait()

    def open(self) -> None:
        self._open.set()

    async def stand(self) -> None:
        """Called by the sender: report, and wait for `open`."""
        if self._open.is_set():
            return
        self.waiting += 1
        self._reached.set()
        try:
            await self._open.wait()
        finally:
            self.waiting -= 1


@dataclass(frozen=True, slots=True)
class Answer:
    """One response. `whole` is the entity that `body` is a range of; counts of bytes are of this answer's body.

    `declared` replaces the true Content-Length; `gates` stop the body after so many bytes; after `cut_at` bytes the
    connection is closed (`reset`: by RST); `endless` repeats the body for ever.
    """

    status: int
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: bytes = b""
    whole: bytes = b""
    framing: Framing = "length"
    declared: int | None = None
    gates: tuple[tuple[int, Gate], ...] = ()
    header_gate: Gate | None = None
    cut_at: int | None = None
    reset: bool = False
    endless: bool = False

    def with_header(self, name: str, value: str) -> "Answer":
        headers = self.headers.copy()
        headers[name] = value
        return replace(self, headers=headers)


Fault = Callable[[Answer], Answer]


def reply(status: int, body: bytes = b"", media_type: str = "application/json", **headers: str) -> Answer:
    """A plain answer; `_` in a header's keyword stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, CIMultiDict({"Content-Type": media_type, **named}), body, body)


def refusal(status: int, code: str, message: str = "refused", **headers: str) -> Answer:
    """An error with the OCI body."""
    body = {"errors": [{"code": code, "message": message, "detail": None}]}
    return reply(status, json.dumps(body).encode(), "application/json; charset=utf-8", **headers)


@dataclass(slots=True)
class Recorded:
    """A request and how its answer went. `target` is the raw request target, query included, as received; `peer` is the
    connection it came by.
    """

    method: str
    path: str
    target: str
    query: dict[str, str]
    headers: CIMultiDictProxy[str]
    body: bytes = b""
    status: int = 0
    sent_bytes: int = 0
    whole: bool = False
    peer: tuple[str, int] | None = None


class Sent(web.StreamResponse):
    """Tells aiohttp that the answer has gone out already, and whether its connection may be used again."""

    def __init__(self, status: int, *, reusable: bool) -> None:
        super().__init__(status=status)
        self._reusable = reusable

    @property
    def keep_alive(self) -> bool:
        return self._reusable

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: object = b"") -> None:
        return None


async def send(request: web.BaseRequest, answer: Answer, record: Recorded) -> web.StreamResponse:
    """Write `answer` as it is; returns once the kernel has taken all of it, or its connection is gone."""
    record.status = answer.status
    if answer.header_gate is not None:
        await answer.header_gate.stand()
    transport = request.transport
    if transport is None or transport.is_closing():
        return Sent(answer.status, reusable=False)
    # "Sent" means taken by the kernel. Not 0: over TLS asyncio would then pause for ever (3.11, sslproto).
    transport.set_write_buffer_limits(high=1)
    bare = request.method == "HEAD" or answer.status in (204, 304)
    transport.write(_head(answer, bare))
    if bare:
        record.whole = True
        return Sent(answer.status, reusable=True)
    return await _send_body(request, transport, answer, record)


async def _send_body(
    request: web.BaseRequest, transport: asyncio.Transport, answer: Answer, record: Recorded
) -> web.StreamResponse:
    for offset, piece in _pieces(answer):
        for after, stop in answer.gates:
            if after == offset:
                await stop.stand()
        if answer.cut_at == offset:
            return _cut(transport, answer)
        if transport.is_closing():
            return Sent(answer.status, reusable=False)
        if piece:
            transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if answer.framing == "chunked" else piece)
            await request.protocol._drain_helper()  # what StreamWriter.drain calls; a client that left raises here
            record.sent_bytes += len(piece)
        if answer.endless:
            await asyncio.sleep(0)  # a turn of the loop: over TLS a lost peer is noticed there, never in a write
    if answer.framing == "chunked":
        transport.write(b"0\r\n\r\n")
    record.whole = True
    reusable = answer.framing != "close" and answer.declared in (None, len(answer.body))
    if not reusable:
        transport.close()
    return Sent(answer.status, reusable=reusable)


def _head(answer: Answer, bare: bool) -> bytes:
    headers = answer.headers.copy()
    if answer.framing == "chunked" and not bare:
        headers["Transfer-Encoding"] = "chunked"
    elif answer.framing == "length" and answer.status not in (204, 304) and "Content-Length" not in headers:
        headers["Content-Length"] = str(len(answer.body) if answer.declared is None else answer.declared)
    phrase = HTTPStatus(answer.status).phrase
    lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def _pieces(answer: Answer) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) that stop at every gate and cut; the last piece is empty, so that what waits at the end fires."""
    stops = {after for after, _ in answer.gates} | ({answer.cut_at} if answer.cut_at is not None else set())
    offset = 0
    while True:
        for start in _starts(len(answer.body), {stop - offset for stop in stops}):
            yield offset + start[0], answer.body[start[0] : start[1]]
        offset += len(answer.body)
        if not (answer.endless and answer.body):
            yield offset, b""
            return


def _starts(length: int, stops: set[int]) -> list[tuple[int, int]]:
    edges = sorted({*range(0, length, PIECE), *(stop for stop in stops if 0 <= stop < length), length})
    return list(itertools.pairwise(edges))


def _cut(transport: asyncio.Transport, answer: Answer) -> Sent:
    if answer.reset:
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()
    else:
        transport.close()
    return Sent(answer.status, reusable=False)
