"""A blob's answer: HEAD, GET, ranges; the same headers and statuses whether it is stored, filling or cold.

Once a blob gave one client a 206, every later range of it must be a 206 (protocol B07), so nothing here looks at which
of the three it is.
"""

import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import hdrs, web

from proxy.exchange import Exchange
from proxy.oci import OCTETS, Digest, Span
from proxy.outcome import unkept
from proxy.pulled import BlobAnswer
from proxy.server import respond
from proxy.server.ranges import content_range, is_open_ended, is_ranged, plan
from proxy.server.send import Body, Wire
from proxy.store.threads import Threads

# Bytes in the kernel (which doubles it) for `bytes=N-`: the buffer that it would grow to, 4 MiB, is sent for nothing
# when the client has its chunk and closes. Sent over read at chunks of 8 and 4 MiB, 30 MB/s each: 1.06 and 1.15; 1.27
# and 1.54 without, 1.15 and 1.46 with twice as much. At 10 ms of round trip it still lets 50 MB/s through a connection.
OPEN_ENDED_BUFFER: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A blob's answer as decided: its head, and which bytes of `body` leave, each span behind its own few bytes.

    `length` is in bytes, None for a body whose size nobody told. `is_open_ended`: the client will close early.
    """

    status: int
    headers: Mapping[str, str]
    length: int | None
    parts: tuple[tuple[bytes, Span], ...]
    tail: bytes
    is_open_ended: bool


async def send_blob(
    request: web.BaseRequest,
    answer: BlobAnswer,
    digest: Digest,
    member: str,
    exchange: Exchange,
    send: Callable[[Outgoing, Body], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """Answer a HEAD or GET of a blob; `send` sends what was decided. Raises CisternError before the headers are out,
    ConnectionError after.
    """
    headers = respond.content_headers(digest, OCTETS) | {"Accept-Ranges": "bytes"}
    if respond.not_modified(request.headers.get(hdrs.IF_NONE_MATCH), digest):
        return respond.small(exchange, b"", headers | respond.common_headers(member, exchange), 304)
    if exchange.method == "HEAD":
        return respond.described(exchange, answer.size or 0, headers | respond.common_headers(member, exchange))
    size, body = await _open(request, answer)
    _tell_unkept(answer, exchange)
    outgoing = decide(request.headers, size, headers | respond.common_headers(member, exchange))
    response = await send(outgoing, body)
    _tell_unkept(answer, exchange)  # a disk may have refused since: the log tells it
    return response


def decide(asked: Mapping[str, str], size: int | None, headers: Mapping[str, str]) -> Outgoing:
    """What a GET with the request headers `asked` gets of a blob of `size` bytes, None if nobody told it. Pure.

    Raises RangeUnsatisfiable or RangeInvalid.
    """
    range_ = asked.get(hdrs.RANGE)
    if size is None:
        return Outgoing(200, headers, None, (), b"", is_open_ended=False)
    chosen = plan(range_, asked.get(hdrs.IF_RANGE), headers["ETag"], size)
    is_short_lived = is_open_ended(range_)
    if chosen.whole:
        return Outgoing(200, headers, chosen.length, ((b"", chosen.spans[0]),), b"", is_short_lived)
    if len(chosen.spans) == 1:
        told = {**headers, "Content-Range": content_range(chosen.spans[0], size)}
        return Outgoing(206, told, chosen.length, ((b"", chosen.spans[0]),), b"", is_short_lived)
    boundary = secrets.token_hex(12)
    parts = tuple((_part_head(boundary, headers["Content-Type"], span, size), span) for span in chosen.spans)
    tail = f"\r\n--{boundary}--\r\n".encode()
    told = {**headers, "Content-Type": f"multipart/byteranges; boundary={boundary}"}
    return Outgoing(206, told, chosen.length + sum(len(head) for head, _ in parts) + len(tail), parts, tail, False)


async def send_out(
    request: web.BaseRequest, outgoing: Outgoing, body: Body, threads: Threads, exchange: Exchange
) -> web.StreamResponse:
    """Send an answer, head and bytes. Raises ConnectionError: the client left, or BodyDropped."""
    if outgoing.is_open_ended:
        _hold_back(request)
    response = web.StreamResponse(status=outgoing.status, headers=outgoing.headers)
    if outgoing.length is None:
        response.enable_chunked_encoding()
    else:
        response.content_length = outgoing.length
    exchange.begin(outgoing.status)
    await response.prepare(request)
    wire = Wire(request, response, threads, exchange)
    if outgoing.length is None:
        await wire.send_all(body)
    for head, span in outgoing.parts:
        if head:
            await response.write(head)
        await wire.send(body, span)
    if outgoing.tail:
        await response.write(outgoing.tail)
    await response.write_eof()
    return response


def _tell_unkept(answer: BlobAnswer, exchange: Exchange) -> None:
    """Why the body is not kept, as far as that is known by now."""
    if answer.reader is not None:
        why = answer.reader.transfer.unkept
        exchange.outcome = answer.outcome if why is None else unkept(why)


async def _open(request: web.BaseRequest, answer: BlobAnswer) -> tuple[int | None, Body]:
    """The size, once it is sure enough for headers, and the body. A range of an unknown size waits for the end, and so
    does HTTP/1.0, which has no chunks.
    """
    if answer.held is not None:
        return answer.held.size, answer.held
    if answer.reader is None:
        raise RuntimeError("a GET's answer has a held blob or a reader")
    size = await answer.reader.opened()
    if size is None and (is_ranged(request.headers.get(hdrs.RANGE)) or request.version < (1, 1)):
        size = await answer.reader.whole()
    return size, answer.reader


def _part_head(boundary: str, media_type: str, span: Span, size: int) -> bytes:
    return (
        f"\r\n--{boundary}\r\nContent-Type: {media_type}\r\nContent-Range: {content_range(span, size)}\r\n\r\n"
    ).encode()


def _hold_back(request: web.BaseRequest) -> None:
    """Let little wait in the kernel for a client that will close early; its connection is not used again."""
    transport = request.transport
    connected = None if transport is None else transport.get_extra_info("socket")
    if connected is not None and connected.family != socket.AF_UNIX:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, OPEN_ENDED_BUFFER)
