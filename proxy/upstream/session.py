"""One HTTP exchange with an upstream, its realm or a place it redirected to: timeouts, faults, bytes.

Owns the aiohttp sessions of one endpoint; knows nothing of tokens, retries or registries. No header of a client ever
comes here. aiohttp's errors carry whole URLs, and those may be signed: they end here and are no cause of ours.
Invariant: every exchange is reported to the observer once, when it failed or was closed.
"""

import asyncio
import enum
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp.http_parser import HttpResponseParser
from multidict import CIMultiDictProxy
from yarl import URL

from proxy import __version__
from proxy.errors import DialRefused, UpstreamFault, UpstreamLied
from proxy.upstream import addresses, answers, dialler
from proxy.upstream.addresses import Address, Kind
from proxy.upstream.dialler import Names, Policy
from proxy.upstream.egress import Egress, Proxy
from proxy.upstream.faults import faults
from proxy.upstream.settings import UpstreamSettings
from proxy.upstream.trust import Trusted, host_of, may_tunnel, same_origin

HEADER_MAX: Final = 64 * 1024
READ_BUFFER: Final = 256 * 1024
SETTLE_MAX: Final = 64 * 1024
SETTLE_S: Final = 1.0
# Asked for as it is (X04): an encoded body has another digest.
HEADERS: Final = {"User-Agent": f"cistern/{__version__}", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class UpstreamCall:
    """One exchange that ended. `outcome` is the status, or the error's bounded word; `seconds` lasts to the headers."""

    upstream: str
    endpoint: str
    kind: str
    outcome: str
    seconds: float
    received_bytes: int
    quota_remaining: int | None = None


# What of an upstream's settings a wire and its endpoint are made of; `tls` is the context.
DECIDING: Final = (
    "breaker",
    "timeouts",
    "max_connections",
    "max_bandwidth",
    "proxy",
    "trusted_realms",
    "trusted_redirects",
)
Observer = Callable[[UpstreamCall], None]


def unobserved(_call: UpstreamCall) -> None:
    """Nobody listens."""


class Lane(enum.Enum):
    """By what right a host is dialled; each lane has its own connections."""

    CONFIGURED = "configured"
    FOLLOWED = "followed"
    PROXIED = "proxied"


class Exchange:
    """An answer whose headers are here. Whoever holds it closes it; `close` may be called again."""

    def __init__(
        self, response: aiohttp.ClientResponse, wire: "Wire", kind: str, seconds: float, *, is_home: bool
    ) -> None:
        self._response = response
        self._wire = wire
        self._kind = kind
        self._seconds = seconds
        self._is_closed = False
        self.is_home = is_home
        self.received = 0

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def url(self) -> URL:
        return self._response.url

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        return self._response.headers

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it comes; raises UpstreamUnavailable on a cut, UpstreamTimeout on a stall."""
        stall_s, content = self._wire.settings.timeouts.stall_s, self._response.content
        with faults(self._wire.upstream):
            try:
                while True:
                    async with asyncio.timeout(stall_s):
                        chunk = await content.readany()
                    if not chunk:
                        return
                    self.received += len(chunk)
                    yield chunk
            except aiohttp.ClientError:
                if unread := _unread(content):
                    self.received += len(unread)
                    yield unread
                raise

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
            quota = answers.quota_remaining(self.headers) if self.is_home else None
            self._wire.report(self._kind, str(self.status), self._seconds, self.received, quota)


def _unread(content: aiohttp.StreamReader) -> bytes:
    """What had arrived before the connection broke: aiohttp's reader raises before it gives that, up to 256 KiB."""
    content.set_exception(None)  # type: ignore[arg-type]  # the one public way to the buffer; 3.14.5 takes None
    return content.read_nowait()


class Wire:
    """HTTP to one endpoint and to where it leads. `trusted` hosts are dialled as if configured."""

    def __init__(
        self,
        upstream: str,
        endpoint: URL,
        settings: UpstreamSettings,
        *,
        names: Names,
        context: ssl.SSLContext,
        egress: Egress,
        monotonic: Callable[[], float] = time.monotonic,
        observer: Observer = unobserved,
    ) -> None:
        self.upstream = upstream
        self.endpoint = endpoint
        self.settings = settings
        self.realms = Trusted.parse(settings.trusted_realms)
        self.redirects = Trusted.parse(settings.trusted_redirects)
        self._names = names
        self._context = context
        self._egress = egress
        self._monotonic = monotonic
        self._observer = observer
        self._sessions: dict[Lane, aiohttp.ClientSession] = {}
        literal = addresses.parse(host_of(endpoint))
        # Only an endpoint of the house may lead to other hosts of the house.
        self._is_private = literal is not None and addresses.kind(literal) is Kind.PRIVATE
        self._tracing = aiohttp.TraceConfig()
        self._tracing.on_request_headers_sent.append(self._headers_sent)

    async def send(self, kind: str, method: str, url: URL, headers: Mapping[str, str], trusted: Trusted) -> Exchange:
        """Send one request, no redirect followed; raises UpstreamFault before the headers of an answer are here."""
        started = self._monotonic()
        try:
            lane, proxy = self._way(url, trusted)
            with faults(self.upstream):
                async with asyncio.timeout(self.settings.timeouts.connect_s) as deadline:
                    response = await self._session(lane).request(
                        method,
                        url,
                        # In the clear a proxy is asked by the request itself, else by the CONNECT before it.
                        headers={**headers, **proxy.headers} if proxy and url.scheme == "http" else headers,
                        allow_redirects=False,
                        trace_request_ctx=deadline,
                        proxy=None if proxy is None else proxy.url,
                        proxy_headers=None if proxy is None else proxy.headers,
                    )
        except UpstreamFault as error:
            self.report(kind, error.reason, self._monotonic() - started, 0)
            raise
        return Exchange(response, self, kind, self._monotonic() - started, is_home=same_origin(url, self.endpoint))

    def fits(self, settings: UpstreamSettings, context: ssl.SSLContext) -> bool:
        """Whether a wire made with these would be the same as this one."""
        return self._context is context and all(
            getattr(settings, key) == getattr(self.settings, key) for key in DECIDING
        )

    def report(self, kind: str, outcome: str, seconds: float, received: int, quota: int | None = None) -> None:
        self._observer(UpstreamCall(self.upstream, str(self.endpoint), kind, outcome, seconds, received, quota))

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def _headers_sent(self, _session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
        """From here on the time for headers counts, not the time to connect."""
        deadline: asyncio.Timeout = context.trace_request_ctx
        if not deadline.expired():
            deadline.reschedule(asyncio.get_running_loop().time() + self.settings.timeouts.headers_s)

    def _way(self, url: URL, trusted: Trusted) -> tuple[Lane, Proxy | None]:
        """The lane to `url`, and the proxy on the way; raises DialRefused."""
        is_configured = host_of(url) == host_of(self.endpoint) or trusted.names(url)
        proxy = self._egress.proxy_for(url)
        if proxy is None:
            return (Lane.CONFIGURED if is_configured else Lane.FOLLOWED), None
        literal = addresses.parse(host_of(url))
        refused = literal is not None and addresses.kind(literal) is Kind.NEVER
        if refused or not (is_configured or may_tunnel(url)):
            raise DialRefused(self.upstream, f"the proxy is not asked for {host_of(url)}: not a public name")
        return Lane.PROXIED, proxy

    def _session(self, lane: Lane) -> aiohttp.ClientSession:
        session = self._sessions.get(lane)
        if session is None:
            session = self._sessions[lane] = aiohttp.ClientSession(
                connector=dialler.connector(self._names, self._policy(lane), self._context),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=HEADERS,
                auto_decompress=False,
                requote_redirect_url=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),
                read_bufsize=READ_BUFFER,
                max_line_size=HEADER_MAX,
                max_field_size=HEADER_MAX,
                trace_configs=[self._tracing],
            )
        return session

    def _policy(self, lane: Lane) -> Policy:
        if lane is Lane.FOLLOWED:
            return Policy(self._admits_followed, strict=True)
        return Policy(dialler.configured, strict=False, on_resolved=self._resolved)

    def _admits_followed(self, address: Address) -> bool:
        kind = addresses.kind(address)
        if kind is Kind.PUBLIC or (kind is Kind.PRIVATE and self._is_private):
            return True
        return kind is not Kind.NEVER and (self.redirects.holds(address) or self.realms.holds(address))

    def _resolved(self, host: str, found: Sequence[Address]) -> None:
        if host.lower().rstrip(".") == host_of(self.endpoint):
            self._is_private = all(addresses.kind(address) is Kind.PRIVATE for address in found)


def require_compiled_parser() -> None:
    """aiohttp also ships as a pure Python wheel, whose parser is slow and laxer: refuse to start on it."""
    if HttpResponseParser.__module__ != "aiohttp._http_parser":
        raise RuntimeError("aiohttp lacks its compiled HTTP parser: install a wheel for this platform")
