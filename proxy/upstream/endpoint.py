"""One endpoint of an upstream: a request goes in, the answer of the host that finally has it comes out.

Here meet the connection cap, the breaker, the token of each origin and the redirects. The breaker hears only of the
endpoint's own answers: a broken CDN must not stop the checks of tags.
Invariant: an Authorization header goes to the origin it was made for and nowhere else.
"""

import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from cachetools import LRUCache
from yarl import URL

from proxy.errors import UpstreamFault, UpstreamTimeout, UpstreamUnavailable
from proxy.oci import bare_media_type
from proxy.tasks import Tasks
from proxy.upstream import answers, challenge, redirects
from proxy.upstream.authority import Authority
from proxy.upstream.base import Priority
from proxy.upstream.breaker import Breaker, Call, CircuitOpen
from proxy.upstream.challenge import Challenge
from proxy.upstream.credentials import Credentials
from proxy.upstream.session import Exchange, Wire
from proxy.upstream.slots import Slots
from proxy.upstream.token import Tokens
from proxy.upstream.trust import same_origin

ERROR_BODY_MAX: Final = 64 * 1024
AUTHORITIES_MAX: Final = 64
NAME_IN_PATH: Final = re.compile(r"/v2/(.+)/(?:manifests|blobs|tags|referrers)/[^/]+$")
NOT_A_REGISTRY: Final = "not_a_registry"
# How storage behind a redirect says that a signed URL is past its time.
URL_EXPIRED: Final = frozenset({400, 401, 403, 410})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request: `path` stands behind the endpoint's `/v2/`."""

    kind: str
    method: str
    path: str
    headers: Mapping[str, str]
    credentials: str | None
    query: Mapping[str, str] = field(default_factory=dict)
    priority: Priority = Priority.CLIENT


class Endpoint:
    """One endpoint with its own connections, tokens and breaker."""

    def __init__(
        self,
        wire: Wire,
        credentials: Credentials,
        tasks: Tasks,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wire = wire
        self.upstream = wire.upstream
        self.origin = str(wire.endpoint)
        self.breaker = Breaker(wire.settings.breaker, monotonic=monotonic)
        self.slots = Slots(wire.settings.max_connections)
        self.is_head_trusted: bool | None = None  # whether HEAD on a manifest was ever answered, or refused as such
        self._clock = clock
        self._tokens = Tokens(wire, credentials, tasks, clock=clock, monotonic=monotonic)
        self._credentials = credentials
        self._home = Authority(
            self.upstream, wire.endpoint, self._tokens, credentials, wire.realms, self._bare_challenges
        )
        self._guests: LRUCache[URL, Authority] = LRUCache(AUTHORITIES_MAX)
        base = wire.endpoint.raw_path.rstrip("/")
        self._base = base if f"{base}/".find("/v2/") >= 0 else f"{base}/v2"

    def url(self, path: str, query: Mapping[str, str]) -> URL:
        """The URL of `path` behind this endpoint's `/v2/`; names and digests were checked before."""
        url = URL(f"{self.wire.endpoint.origin()}{self._base}/{path}", encoded=True)
        return url.with_query(dict(query)) if query else url

    @asynccontextmanager
    async def ask(self, ask: Ask) -> AsyncIterator[Exchange]:
        """The answer to `ask` behind all challenges and redirects, whatever its status; closed at the end."""
        async with self.slots.hold(ask.priority):
            answer = await self._travel(ask)
            try:
                if ask.method == "GET" and not answer.is_home and answer.status in URL_EXPIRED:
                    answer.close()
                    answer = await self._travel(ask)
                yield answer
            finally:
                answer.close()

    async def ping(self) -> int | str:
        """The status of a bare `GET /v2/`, 401 is healthy; `not_a_registry` for a web page."""
        answer = await self._send_home("ping", "GET", self.url("", {}), {})
        await answer.settle()
        is_page = bare_media_type(answer.headers.get("Content-Type")) == "text/html"
        # An error page may well be HTML: gateways write such before real registries.
        return NOT_A_REGISTRY if is_page and answer.status < 400 else answer.status

    async def fault(self, answer: Exchange, credentials: str | None) -> UpstreamFault:
        """The error that an unwelcome answer stands for."""
        body = b""
        with suppress(UpstreamFault):  # the status alone speaks then
            body = await answer.read(ERROR_BODY_MAX)
        if not answer.is_home and answer.status in URL_EXPIRED:
            return UpstreamUnavailable(self.upstream, f"the storage it redirects to answered {answer.status}, twice")
        return answers.fault(
            self.upstream, answer.status, answer.headers, body, credentials=credentials, now=self._clock()
        )

    async def _travel(self, ask: Ask) -> Exchange:
        trail = [self.url(ask.path, ask.query)]
        while True:
            answer = await self._arrive(ask, trail[-1])
            if answer.status not in redirects.STATUSES:
                return answer
            try:
                trail.append(redirects.next_hop(self.upstream, trail, answer.headers))
            finally:
                await answer.settle()

    async def _arrive(self, ask: Ask, url: URL) -> Exchange:
        """One hop: sent with what is known, and once more if that is not enough."""
        is_home = same_origin(url, self.wire.endpoint)
        authority = self._home if is_home else self._guest(url)
        credentials = ask.credentials if is_home else None
        name = NAME_IN_PATH.search(url.path)
        scope = f"repository:{name[1]}:pull" if name else None
        grant = await authority.recall(credentials, scope)
        answer = await self._send(ask, url, None if grant is None else grant.header)
        if not authority.is_rejected(answer.status, grant):
            return answer
        try:
            renewed = await authority.renew(answer, grant, credentials, scope)
        except BaseException:
            answer.close()
            raise
        if renewed is not None:
            await answer.settle()
            answer = await self._send(ask, url, renewed.header)
        refusal = authority.refusal(answer.status, renewed or grant, credentials)
        if refusal is not None:
            answer.close()
            raise refusal
        return answer

    async def _send(self, ask: Ask, url: URL, authorization: str | None) -> Exchange:
        headers = dict(ask.headers) if authorization is None else {**ask.headers, "Authorization": authorization}
        if same_origin(url, self.wire.endpoint):
            return await self._send_home(ask.kind, ask.method, url, headers)
        return await self.wire.send(ask.kind, ask.method, url, headers, self.wire.redirects)

    async def _send_home(self, kind: str, method: str, url: URL, headers: Mapping[str, str]) -> Exchange:
        with self._call() as call:
            answer = await self.wire.send(kind, method, url, headers, self.wire.redirects)
            if answer.status >= 500:
                call.failed()
            else:
                call.succeeded()
        return answer

    @contextmanager
    def _call(self) -> Iterator[Call]:
        """A call that the breaker hears of: outages count, what else is raised (lies, cancellations) says nothing."""
        try:
            call = self.breaker.enter()
        except CircuitOpen as circuit:
            why = "it failed too often, and is left alone for a while"
            raise UpstreamUnavailable(self.upstream, why, circuit.retry_after_s) from None
        try:
            yield call
        except (UpstreamUnavailable, UpstreamTimeout):
            call.failed()
            raise
        finally:
            call.abandon()

    def _guest(self, url: URL) -> Authority:
        origin = url.origin()
        guest = self._guests.get(origin)
        if guest is None:
            guest = Authority(self.upstream, origin, self._tokens, self._credentials, self.wire.realms, None)
            self._guests[origin] = guest
        return guest

    async def _bare_challenges(self) -> list[Challenge]:
        answer = await self._send_home("ping", "GET", self.url("", {}), {})
        await answer.settle()
        if answer.status != 401:
            return []
        return challenge.parse(answer.headers.getall("WWW-Authenticate", []))
