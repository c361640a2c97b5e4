"""A blob's answer: HEAD, GET, ranges; the same headers and statuses whether it is stored, filling or cold.

Once a blob gave one client a 206, every later range of it must be a 206 (protocol B07), so nothing here looks at which
of the three it is.
"""

import secrets
import socket
from typing import Final

from aiohttp import hdrs, web

from proxy.exchange import Exchange
from proxy.oci import OCTETS, Digest, Span
from proxy.outcome import unkept
from proxy.pulled import BlobAnswer
from proxy.server import respond
from proxy.server.ranges import Plan, content_range, is_open_ended, is_ranged, plan
from proxy.server.send import Body, Wire
from proxy.store.threads import Threads

# Bytes in the kernel (which doubles it) for `bytes=N-`: the buffer that it would grow to, 4 MiB, is sent for nothing
# when the client has its chunk and closes. Sent over read at chunks of 8 and 4 MiB, 30 MB/s each: 1.06 and 1.15; 1.27
# and 1.54 without, 1.15 and 1.46 with twice as much. At 10 ms of round trip it still lets 50 MB/s through a connection.
OPEN_ENDED_BUFFER: Final = 256 << 10


async def send_blob(
    request: web.BaseRequest, answer: BlobAnswer, digest: Digest, member: str, threads: Threads, exchange: Exchange
) -> web.StreamResponse:
    """Answer a HEAD or GET of a blob. Raises CisternError before the headers are out, ConnectionError after."""
    headers = respond.content_headers(digest, OCTETS) | {"Accept-Ranges": "bytes"}
    if respond.not_modified(request.headers.get(hdrs.IF_NONE_MATCH), digest):
        return respond.small(exchange, b"", headers | respond.common_headers(member, exchange), 304)
    if exchange.method == "HEAD":
        return respond.described(exchange, answer.size or 0, headers | respond.common_headers(member, exchange))
    size, body = await _open(request, answer)
    _tell_unkept(answer, exchange)
    headers |= respond.common_headers(member, exchange)
    if size is None:  # nobody told it: chunked
        response = web.StreamResponse(headers=headers)
        response.enable_chunked_encoding()
        await _begin(request, response, exchange)
        await Wire(request, response, threads, exchange).send_all(body)
    else:
        asked, if_range = request.headers.get(hdrs.RANGE), request.headers.get(hdrs.IF_RANGE)
        chosen = plan(asked, if_range, headers["ETag"], size)
        if is_open_ended(asked):
            _hold_back(request)
        response = await _send_plan(request, body, chosen, size, headers, threads, exchange)
    await response.write_eof()
    _tell_unkept(answer, exchange)  # a disk may have refused since: the log tells it
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


async def _send_plan(
    request: web.BaseRequest,
    body: Body,
    chosen: Plan,
    size: int,
    headers: dict[str, str],
    threads: Threads,
    exchange: Exchange,
) -> web.StreamResponse:
    parts = [b""] * len(chosen.spans)
    tail = b""
    if not chosen.whole and len(chosen.spans) == 1:
        headers["Content-Range"] = content_range(chosen.spans[0], size)
    elif not chosen.whole:
        boundary = secrets.token_hex(12)
        parts = [_part_head(boundary, headers["Content-Type"], span, size) for span in chosen.spans]
        tail = f"\r\n--{boundary}--\r\n".encode()
        headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    response = web.StreamResponse(status=200 if chosen.whole else 206, headers=headers)
    response.content_length = chosen.length + sum(map(len, parts)) + len(tail)
    await _begin(request, response, exchange)
    wire = Wire(request, response, threads, exchange)
    for head, span in zip(parts, chosen.spans, strict=True):
        if head:
            await response.write(head)
        await wire.send(body, span)
    if tail:
        await response.write(tail)
    return response


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


async def _begin(request: web.BaseRequest, response: web.StreamResponse, exchange: Exchange) -> None:
    exchange.begin(response.status)
    await response.prepare(request)
