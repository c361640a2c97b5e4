"""One answer of an upstream whose headers are here: its body as it comes, its end, and what is learnt of both.

Whoever holds an exchange closes it. Invariant: it is reported once, when it is closed.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from proxy.errors import UpstreamFault, UpstreamLied, UpstreamTimeout
from proxy.upstream import answers, quota
from proxy.upstream.bandwidth import Pace
from proxy.upstream.base import Buffer
from proxy.upstream.faults import faults
from proxy.upstream.intake import Intake
from proxy.upstream.quota import Quota

SETTLE_MAX: Final = 64 * 1024
SETTLE_S: Final = 1.0
RATE_MIN: Final = 1024  # bytes a second of waiting: whoever drips more slowly is as good as silent (reliability T02)


class Watch(Protocol):
    """Who hears of a body: that it began, that it broke off or came to its end, and that nobody reads it any more."""

    def began(self) -> None: ...
    def broke(self, error: UpstreamFault) -> None: ...
    def ended(self) -> None: ...
    def left(self) -> None: ...


class Line(Protocol):
    """What an exchange needs of the wire it came over."""

    @property
    def upstream(self) -> str: ...
    @property
    def stall_s(self) -> float: ...
    def monotonic(self) -> float: ...
    def report(self, kind: str, outcome: str, seconds: float, received: int, quota: Quota | None = None) -> None: ...


class Exchange:
    """An answer whose headers are here. Whoever holds it closes it; `close` may be called again."""

    def __init__(
        self, response: aiohttp.ClientResponse, wire: Line, kind: str, seconds: float, *, is_home: bool
    ) -> None:
        self._response = response
        self._wire = wire
        self._kind = kind
        self._seconds = seconds
        self._is_closed = False
        self.is_home = is_home
        self.received = 0
        self.pace: Pace | None = None
        self.watch: Watch | None = None
        self.refusal: UpstreamFault | None = None  # of an answer that was read to be judged

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def url(self) -> URL:
        return self._response.url

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self._response.headers

    async def chunks(self) -> AsyncGenerator[Buffer, None]:
        """The body as it comes; raises UpstreamUnavailable on a cut, UpstreamTimeout on a stall or a drip."""
        stall_s, content, now = self._wire.stall_s, self._response.content, self._wire.monotonic
        waited_s, size = 0.0, 0
        with self._watched(), faults(self._wire.upstream):
            length = answers.content_length(self._wire.upstream, self.headers)
            intake = Intake.instead_of_reader(self._response, length)
            take: Callable[[], Awaitable[Buffer]] = content.readany if intake is None else intake.take
            try:
                while True:
                    began = now()
                    async with asyncio.timeout(stall_s):
                        chunk = await take()
                    if not chunk:
                        break
                    # Only the wait for the upstream counts, not that for whoever takes the bytes.
                    waited_s, size = waited_s + now() - began, size + len(chunk)
                    self._took(chunk)
                    yield chunk
                    if self.pace is not None:
                        await self.pace.received(len(chunk))
                    if waited_s >= stall_s:
                        if size < RATE_MIN * waited_s:
                            raise UpstreamTimeout(self._wire.upstream, f"it sent {size} bytes in {waited_s:.0f} s")
                        waited_s, size = 0.0, 0
            except aiohttp.ClientError:
                if unread := _unread(content):
                    self._took(unread)
                    yield unread
                raise

    def _took(self, chunk: Buffer) -> None:
        """Bytes have come: the endpoint is alive, and a body that is cut from here on goes on by Range."""
        self.received += len(chunk)
        if self.watch is not None:
            self.watch.began()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except UpstreamFault as error:
            if self.watch is not None:
                self.watch.broke(error)
            raise
        if self.watch is not None:
            self.watch.ended()

    async def read(self, limit: int) -> bytes:
        """The whole body, inflated if need be, at most `limit` bytes; raises UpstreamLied on more."""
        upstream = self._wire.upstream
        length = answers.content_length(upstream, self.headers)
        parts, size = [], 0
        if length is None or length <= limit:
            async for chunk in self.chunks():
                parts.append(chunk)
                size += len(chunk)
                if size > limit:
                    break
        if size > limit or (length or 0) > limit:
            raise UpstreamLied(upstream, f"its answer is larger than {limit} bytes")
        return answers.inflate(upstream, b"".join(parts), self.headers, limit)

    async def settle(self) -> None:
        """Done with this answer: take in a short rest of the body, so that the connection can be used again."""
        try:
            length = answers.content_length(self._wire.upstream, self.headers)
            if length is not None and length <= SETTLE_MAX:
                async with asyncio.timeout(SETTLE_S):
                    async for _ in self.chunks():
                        pass
        except (UpstreamFault, TimeoutError):
            pass
        finally:
            self.close()

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else end it; report the exchange."""
        self._response.close()
        if not self._is_closed:
            self._is_closed = True
            if self.watch is not None:
                self.watch.left()
            told = quota.read(self.headers) if self.is_home else None
            self._wire.report(self._kind, str(self.status), self._seconds, self.received, told)


def _unread(content: aiohttp.StreamReader) -> bytes:
    """What had arrived before the connection broke: aiohttp's reader raises before it gives that, up to 256 KiB."""
    content.set_exception(None)  # type: ignore[arg-type]  # the one public way to the buffer; 3.14.5 takes None
    return content.read_nowait()
