"""Blobs of one endpoint: their size shown, their bytes received from any offset (protocol U14..U17).

Invariant: `BlobBody.start` is where the bytes really begin; an answer that cannot prove it is a lie.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Final

from proxy.errors import Failure, UpstreamLied, UpstreamUnavailable
from proxy.oci import Digest
from proxy.upstream import answers
from proxy.upstream.bandwidth import never
from proxy.upstream.base import BlobBody, Buffer, Priority
from proxy.upstream.endpoint import Ask, Endpoint
from proxy.upstream.exchange import Exchange

# 404 too: a registry that is a cache itself may know GET alone of what it has not fetched yet (Harbor: protocol R16).
NO_HEAD_HERE: Final = frozenset({404, 405, 501})


async def head(endpoint: Endpoint, repository: str, digest: Digest, credentials: str | None) -> int | None:
    """The size of a blob that is there. Where HEAD does not find it one byte is asked for: storage behind a redirect
    may know GET alone, since the method is signed with the URL.
    """
    async with endpoint.ask(_ask("HEAD", repository, digest, credentials)) as answer:
        if answer.status == 200:
            answers.media_type(endpoint.upstream, answer.headers)
            is_plain = answers.is_identity(endpoint.upstream, answer.headers)
            return answers.content_length(endpoint.upstream, answer.headers) if is_plain else None
        is_refused = answer.status in NO_HEAD_HERE or (not answer.is_home and 400 <= answer.status < 500)
        if not is_refused:
            raise await endpoint.fault(answer, credentials)
    ask = _ask("GET", repository, digest, credentials, {"Range": "bytes=0-0"})
    async with endpoint.ask(ask) as answer:
        if answer.status == 206:
            return answers.content_range(endpoint.upstream, answer.headers)[2]
        if answer.status == 416:
            return answers.content_range(endpoint.upstream, answer.headers)[2]  # an empty blob has no first byte
        if answer.status != 200:
            raise await endpoint.fault(answer, credentials)
        answers.media_type(endpoint.upstream, answer.headers)
        return answers.content_length(endpoint.upstream, answer.headers)


@asynccontextmanager
async def receive(
    endpoint: Endpoint,
    repository: str,
    digest: Digest,
    credentials: str | None,
    *,
    offset: int,
    stop: int | None,
    priority: Priority,
    is_urgent: Callable[[], bool],
    limit: int,
) -> AsyncIterator[BlobBody]:
    """The bytes from `offset` on, at most up to `stop`, or from 0 if the upstream knows no ranges; never more than
    `limit` in all.
    """
    headers = {"Range": f"bytes={offset}-{'' if stop is None else stop - 1}"} if offset or stop is not None else {}
    async with endpoint.ask(_ask("GET", repository, digest, credentials, headers, priority, is_urgent)) as answer:
        if answer.status not in (200, 206, 416) or (answer.status != 200 and not headers):
            raise await endpoint.fault(answer, credentials)
        start, end, size = _extent(endpoint.upstream, answer, offset)
        if max(size or 0, end or 0) > limit:
            raise UpstreamLied(endpoint.upstream, f"the blob is larger than {limit} bytes")
        if answer.status == 206 and stop is not None and (end or 0) > stop:
            raise UpstreamLied(endpoint.upstream, f"asked for bytes up to {stop}, it answers up to {end}")
        generated = _empty() if answer.status == 416 else _bounded(endpoint, answer, start, end, limit)
        async with aclosing(generated) as chunks:
            yield BlobBody(start, size, chunks, endpoint.origin)


def _extent(upstream: str, answer: Exchange, offset: int) -> tuple[int, int | None, int | None]:
    """(first byte, end of this body, size of the blob); None for what is not told. Raises UpstreamLied."""
    if answer.status == 416:
        size = answers.content_range(upstream, answer.headers)[2]
        if size != offset:
            raise UpstreamLied(upstream, f"it has no byte {offset} of a blob of {size} bytes")
        return offset, offset, size  # all bytes were here already (containerd's withOffsetCheck)
    if not answers.is_identity(upstream, answer.headers):
        raise UpstreamLied(upstream, "it encoded a blob: its bytes are others than its digest's")
    answers.media_type(upstream, answer.headers)
    length = answers.content_length(upstream, answer.headers)
    if answer.status == 200:
        return 0, length, length
    first, last, size = answers.content_range(upstream, answer.headers)
    if first != offset or last is None:
        raise UpstreamLied(upstream, f"asked from byte {offset} on, it answers from byte {first}")
    if length is not None and length != last - first + 1:
        raise UpstreamLied(upstream, "its Content-Range and Content-Length contradict each other")
    return first, last + 1, size


async def _bounded(
    endpoint: Endpoint, answer: Exchange, start: int, stop: int | None, limit: int
) -> AsyncGenerator[Buffer, None]:
    """The body's chunks; one that ends early is a cut, one that does not end in time is a lie."""
    place = start
    end = limit if stop is None else stop
    async with aclosing(answer.chunks()) as chunks:
        async for chunk in chunks:
            place += len(chunk)
            if place > end:
                raise UpstreamLied(endpoint.upstream, "its blob is longer than it may be")
            yield chunk
    if stop is not None and place < stop:
        raise UpstreamUnavailable(endpoint.upstream, "its answer was cut short", failure=Failure.CUT)


async def _empty() -> AsyncGenerator[Buffer, None]:
    nothing: tuple[Buffer, ...] = ()
    for chunk in nothing:
        yield chunk


def _ask(
    method: str,
    repository: str,
    digest: Digest,
    credentials: str | None,
    headers: dict[str, str] | None = None,
    priority: Priority = Priority.CLIENT,
    is_urgent: Callable[[], bool] = never,
) -> Ask:
    return Ask(
        kind="blob",
        method=method,
        path=f"{repository}/blobs/{digest}",
        headers=headers or {},
        credentials=credentials,
        priority=priority,
        is_urgent=is_urgent,
    )
