"""One endpoint of an upstream: a request goes in, the answer of the host that finally has it comes out.

Here meet the connection cap, the standing (breaker, gates, quota), the token of each origin and the redirects.
Invariant: an Authorization header goes to the origin it was made for and nowhere else.
"""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from cachetools import LRUCache
from yarl import URL

from proxy.errors import Failure, UpstreamFault, UpstreamThrottled, UpstreamUnavailable
from proxy.log import public_url
from proxy.oci import bare_media_type
from proxy.tasks import Tasks
from proxy.upstream import answers, challenge, redirects
from proxy.upstream.authority import Authority
from proxy.upstream.bandwidth import Background, Pace, Sleep, never
from proxy.upstream.base import Priority
from proxy.upstream.challenge import Challenge
from proxy.upstream.credentials import Credentials
from proxy.upstream.exchange import Exchange
from proxy.upstream.prober import Prober
from proxy.upstream.session import BLOB, Wire
from proxy.upstream.slots import NoSlot, Slots
from proxy.upstream.standing import Body, Standing
from proxy.upstream.token import Tokens
from proxy.upstream.trust import same_origin

ERROR_BODY_MAX: Final = 64 * 1024
REFUSAL_BODY_S: Final = 1.0
STORAGE_WAIT_S: Final = 5.0  # told when storage refuses a URL that is new: no retry at once makes that better
BUSY_S: Final = 5.0  # told when all connections are in use
AUTHORITIES_MAX: Final = 64
NAMED: Final = re.compile(r"(.+)/(?:manifests|blobs|tags|referrers)/[^/]+")
NOT_A_REGISTRY: Final = "not_a_registry"
# How storage behind a redirect says that a signed URL is past its time.
URL_EXPIRED: Final = frozenset({400, 401, 403, 410})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request: `path` stands behind the endpoint's `/v2/`. `is_urgent` tells, while a body comes, whether a client
    waits for it by now.
    """

    kind: str
    method: str
    path: str
    headers: Mapping[str, str]
    credentials: str | None
    query: Mapping[str, str] = field(default_factory=dict)
    priority: Priority = Priority.CLIENT
    is_urgent: Callable[[], bool] = never

    @property
    def is_counted(self) -> bool:
        """Whether Docker Hub counts it as a pull: GET of a manifest, and nothing else (protocol U20)."""
        return self.kind == "manifest" and self.method == "GET"


PING: Final = Ask(kind="ping", method="GET", path="", headers={}, credentials=None)


class Endpoint:
    """One endpoint with its own connections, tokens and standing."""

    def __init__(
        self,
        wire: Wire,
        credentials: Credentials,
        tasks: Tasks,
        background: Background,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        sleep: Sleep = asyncio.sleep,
        before: "Standing | None" = None,
    ) -> None:
        self.wire = wire
        self.upstream = wire.upstream
        self.origin = str(wire.endpoint)
        self.standing = Standing(
            self.upstream,
            self.origin,
            wire.settings.breaker,
            monotonic=monotonic,
            rng=rng,
            on_open=self._left_alone,
            before=before,
        )
        self.breaker = self.standing.breaker
        self.slots = Slots(wire.settings.max_connections)
        self.is_head_trusted: bool | None = None  # whether HEAD on a manifest was ever answered, or refused as such
        self._clock = clock
        self._sleep = sleep
        self._background = background
        self._prober = Prober(public_url(self.origin), self.breaker, self._probe, tasks, sleep)
        self._tokens = Tokens(wire, credentials, tasks, self.standing.gates, clock=clock, monotonic=monotonic)
        self._credentials = credentials
        self._home = Authority(
            self.upstream, wire.endpoint, self._tokens, credentials, wire.realms, self._bare_challenges
        )
        self._guests: LRUCache[URL, Authority] = LRUCache(AUTHORITIES_MAX)
        base = wire.endpoint.raw_path.rstrip("/")
        self._base = base if f"{base}/".find("/v2/") >= 0 else f"{base}/v2"

    def _left_alone(self) -> None:
        self._prober.wake()

    def begin(self) -> None:
        """It is in use from now on: probed, if it is left alone since before."""
        if self.breaker.is_open:
            self._prober.wake()

    async def retire(self) -> None:
        """Another one has taken its place: what runs ends as it began, and nobody else comes."""
        await self._prober.close()

    async def close(self) -> None:
        """End its probes and connections."""
        await self.retire()
        await self.wire.close()

    def url(self, path: str, query: Mapping[str, str]) -> URL:
        """The URL of `path` behind this endpoint's `/v2/`; names and digests were checked before."""
        url = URL(f"{self.wire.endpoint.origin()}{self._base}/{path}", encoded=True)
        return url.with_query(dict(query)) if query else url

    @asynccontextmanager
    async def ask(self, ask: Ask) -> AsyncIterator[Exchange]:
        """The answer to `ask` behind all challenges and redirects, whatever its status; closed at the end."""
        if ask.priority is Priority.BACKGROUND and not ask.is_urgent():
            self.standing.hold_back(ask.credentials, self._background.quota_reserve)
        self.standing.refuse_left_alone()
        async with self._slot(ask):
            answer = await self._travel(ask)
            try:
                if ask.method == "GET" and not answer.is_home and answer.status in URL_EXPIRED:
                    answer.close()
                    answer = await self._travel(ask)
                answer.pace = self._pace(ask)
                yield answer
            finally:
                answer.close()

    @asynccontextmanager
    async def _slot(self, ask: Ask) -> AsyncIterator[None]:
        """Hold a slot; raises UpstreamUnavailable if none is free for a client within the time for headers."""
        is_body, within_s = ask.kind == BLOB and ask.method == "GET", self.wire.settings.timeouts.headers_s
        async with AsyncExitStack() as stack:
            slot = self.slots.hold(ask.priority, is_body=is_body, within_s=within_s, is_urgent=ask.is_urgent)
            try:
                async with self.standing.patience():
                    await stack.enter_async_context(slot)
                    await self.standing.turn()
            except NoSlot:
                why = f"all connections that it may have are in use ({self.slots.limit}), and none was free in time"
                raise UpstreamUnavailable(self.upstream, why, BUSY_S, failure=Failure.BUSY) from None
            yield

    def _pace(self, ask: Ask) -> Pace | None:
        background = self._background.bandwidth if ask.priority is Priority.BACKGROUND else None
        if ask.kind != BLOB or (self.wire.line is None and background is None):
            return None
        return Pace(self.wire.line, background, is_urgent=ask.is_urgent, sleep=self._sleep)

    async def _probe(self) -> int:
        """A bare `GET /v2/` past the open breaker; its status. Raises UpstreamFault."""
        answer = await self.wire.send("ping", "GET", self.url("", {}), {}, self.wire.redirects)
        await answer.settle()
        return answer.status

    async def ping(self) -> int | str:
        """The status of a bare `GET /v2/`, 401 is healthy; `not_a_registry` for a web page."""
        answer = await self._send_home(PING, self.url("", {}), {})
        await answer.settle()
        is_page = bare_media_type(answer.headers.get("Content-Type")) == "text/html"
        # An error page may well be HTML: gateways write such before real registries.
        return NOT_A_REGISTRY if is_page and answer.status < 400 else answer.status

    async def fault(self, answer: Exchange, credentials: str | None) -> UpstreamFault:
        """The error that an unwelcome answer stands for."""
        if answer.refusal is not None:
            return answer.refusal
        if not answer.is_home and answer.status in URL_EXPIRED:
            why = f"the storage it redirects to answered {answer.status}, twice"
            return UpstreamUnavailable(self.upstream, why, STORAGE_WAIT_S, failure=Failure.SERVER_ERROR)
        error = await self._judge(answer, credentials)
        if isinstance(error, UpstreamThrottled):  # in the guise of a 401 or 403
            return self.standing.throttled(answer.url.origin(), credentials, error)
        return error

    async def _judge(self, answer: Exchange, credentials: str | None) -> UpstreamFault:
        body = b""
        with suppress(UpstreamFault, TimeoutError):  # the status alone speaks then
            async with asyncio.timeout(REFUSAL_BODY_S):
                body = await answer.read(ERROR_BODY_MAX)
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
        named = NAMED.fullmatch(url.path.partition("/v2/")[2])
        scope = f"repository:{named[1]}:pull" if named else None
        grant = await authority.recall(credentials, scope)
        answer = await self._send(ask, url, None if grant is None else grant.header)
        renewed = None
        if authority.is_rejected(answer.status, grant):
            try:
                renewed = await authority.renew(answer, grant, credentials, scope)
            except BaseException:
                answer.close()
                raise
            if renewed is not None:
                await answer.settle()
                answer = await self._send(ask, url, renewed.header)
        refusal = authority.judge(answer.status, renewed or grant, credentials)
        if refusal is not None:
            answer.close()
            raise refusal
        return answer

    async def _send(self, ask: Ask, url: URL, authorization: str | None) -> Exchange:
        headers = dict(ask.headers) if authorization is None else {**ask.headers, "Authorization": authorization}
        is_home = same_origin(url, self.wire.endpoint)
        credentials = ask.credentials if is_home else None
        async with self.standing.passage(url.origin(), credentials, counted=ask.is_counted) as way:
            answer = await (self._send_home(ask, url, headers) if is_home else self._send_away(ask, url, headers))
            if answer.status != 429:
                way.answered()
                return answer
            try:
                # Judged before the next one passes the gate.
                error = await self._judge(answer, credentials)
            except BaseException:
                answer.close()
                raise
            if isinstance(error, UpstreamThrottled):
                # What is refused though it is no pull has met the limit on requests, whatever words are used.
                error.is_pull_limit = error.is_pull_limit and ask.is_counted
                answer.refusal = self.standing.throttled(url.origin(), credentials, error)
        return answer

    async def _send_away(self, ask: Ask, url: URL, headers: Mapping[str, str]) -> Exchange:
        return await self.wire.send(ask.kind, ask.method, url, headers, self.wire.redirects)

    async def _send_home(self, ask: Ask, url: URL, headers: Mapping[str, str]) -> Exchange:
        with self.standing.call() as call:
            async with self.standing.patience():
                answer = await self.wire.send(ask.kind, ask.method, url, headers, self.wire.redirects)
            if answer.status >= 500:
                call.failed()
                why = f"it answered {answer.status}"
                self.standing.failed(UpstreamUnavailable(self.upstream, why, failure=Failure.SERVER_ERROR))
                return answer
            self.standing.answered(ask.credentials, answer.headers)
            if ask.kind == BLOB and ask.method == "GET" and answer.status in (200, 206):
                answer.watch = Body(self.standing, call)  # whose body never begins has answered nothing
            else:
                call.succeeded()
        return answer

    def _guest(self, url: URL) -> Authority:
        origin = url.origin()
        guest = self._guests.get(origin)
        if guest is None:
            guest = Authority(self.upstream, origin, self._tokens, self._credentials, self.wire.realms, None)
            self._guests[origin] = guest
        return guest

    async def _bare_challenges(self) -> list[Challenge]:
        answer = await self._send_home(PING, self.url("", {}), {})
        await answer.settle()
        if answer.status != 401:
            return []
        return challenge.parse(answer.headers.getall("WWW-Authenticate", []))
