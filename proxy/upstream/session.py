"""Requests to an upstream, its realm or a place it redirected to: connections, the time they may take, their faults.

Owns the aiohttp sessions of one endpoint; knows nothing of tokens, retries or registries. No header of a client ever
comes here. aiohttp's errors carry whole URLs, and those may be signed: they end here and are no cause of ours.
Invariant: every exchange is reported to the observer once, when it failed or was closed.
"""

import asyncio
import enum
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final

import aiohttp
from aiohttp.http_parser import HttpResponseParser
from yarl import URL

from proxy import __version__
from proxy.errors import DialRefused, UpstreamFault
from proxy.upstream import addresses, dialler
from proxy.upstream.addresses import Address, Kind
from proxy.upstream.bandwidth import Bandwidth
from proxy.upstream.dialler import Names, Policy
from proxy.upstream.egress import Egress, Proxy
from proxy.upstream.exchange import Exchange
from proxy.upstream.faults import faults
from proxy.upstream.quota import Quota
from proxy.upstream.settings import UpstreamSettings
from proxy.upstream.trust import Trusted, host_of, may_tunnel, same_origin

HEADER_MAX: Final = 64 * 1024
BLOB: Final = "blob"
READ_BUFFER: Final = 256 * 1024
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


@dataclass(slots=True)
class Way:
    """How one request goes: until when, and whether over a connection that was kept from before."""

    deadline: asyncio.Timeout
    is_kept: bool = False


async def _kept(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    way: Way = context.trace_request_ctx
    way.is_kept = True


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
        line: Bandwidth | None = None,
    ) -> None:
        self.upstream = upstream
        self.endpoint = endpoint
        self.settings = settings
        self.realms = Trusted.parse(settings.trusted_realms)
        self.redirects = Trusted.parse(settings.trusted_redirects)
        self._names = names
        self._context = context
        self._egress = egress
        self.line = line
        self.monotonic = monotonic
        self._observer = observer
        self._sessions: dict[Lane, aiohttp.ClientSession] = {}
        literal = addresses.parse(host_of(endpoint))
        # Only an endpoint of the house may lead to other hosts of the house.
        self._is_private = literal is not None and addresses.kind(literal) is Kind.PRIVATE
        self._tracing = aiohttp.TraceConfig()
        self._tracing.on_request_headers_sent.append(self._headers_sent)
        self._tracing.on_connection_reuseconn.append(_kept)

    async def send(self, kind: str, method: str, url: URL, headers: Mapping[str, str], trusted: Trusted) -> Exchange:
        """Send one request, no redirect followed; raises UpstreamFault before the headers of an answer are here."""
        started = self.monotonic()
        try:
            lane, proxy = self._way(url, trusted)
            with faults(self.upstream):
                response = await self._request(self._session(lane), method, url, headers, proxy)
        except UpstreamFault as error:
            self.report(kind, error.reason, self.monotonic() - started, 0)
            raise
        return Exchange(response, self, kind, self.monotonic() - started, is_home=same_origin(url, self.endpoint))

    @property
    def stall_s(self) -> float:
        return self.settings.timeouts.stall_s

    async def _request(
        self, session: aiohttp.ClientSession, method: str, url: URL, headers: Mapping[str, str], proxy: Proxy | None
    ) -> aiohttp.ClientResponse:
        for last in (False, False, True):
            try:
                async with asyncio.timeout(self.settings.timeouts.connect_s) as deadline:
                    way = Way(deadline)
                    return await session.request(
                        method,
                        url,
                        # In the clear a proxy is asked by the request itself, else by the CONNECT before it.
                        headers={**headers, **proxy.headers} if proxy and url.scheme == "http" else headers,
                        allow_redirects=False,
                        trace_request_ctx=way,
                        proxy=None if proxy is None else proxy.url,
                        proxy_headers=None if proxy is None else proxy.headers,
                    )
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
                # A kept connection that died while idle is no failure of this request (RFC 9112 section 9.3.1).
                if last or not way.is_kept or isinstance(error, aiohttp.ClientConnectorError):
                    raise
        raise AssertionError("the last try returns or raises")

    def fits(self, settings: UpstreamSettings, context: ssl.SSLContext) -> bool:
        """Whether a wire made with these would be the same as this one."""
        return self._context is context and all(
            getattr(settings, key) == getattr(self.settings, key) for key in DECIDING
        )

    def report(self, kind: str, outcome: str, seconds: float, received: int, quota: Quota | None = None) -> None:
        if self.line is not None and kind != BLOB:
            self.line.charge(received)  # a blob paces itself; what is small is only counted
        remaining = None if quota is None else quota.remaining
        self._observer(UpstreamCall(self.upstream, str(self.endpoint), kind, outcome, seconds, received, remaining))

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()

    async def _headers_sent(self, _session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
        """From here on the time for headers counts, not the time to connect."""
        way: Way = context.trace_request_ctx
        if not way.deadline.expired():
            way.deadline.reschedule(asyncio.get_running_loop().time() + self.settings.timeouts.headers_s)

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
            # It would send each request again that a new connection lost: unasked, beside every budget.
            session._retry_connection = False
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
