"""How one endpoint stands with us: its breaker, its gates, its quota, its last fault; and who may ask it therefore.

Everything that decides whether a request leaves stands here, and learns here from what comes back. Knows no tokens and
no redirects. The breaker hears only of the endpoint's own answers: a broken CDN must not stop the checks of tags.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final

from yarl import URL

from proxy.errors import Failure, UpstreamFault, UpstreamThrottled, UpstreamUnavailable
from proxy.failures import policy_of
from proxy.log import public_url
from proxy.upstream import quota
from proxy.upstream.answers import Headers
from proxy.upstream.breaker import Breaker, Call, CircuitOpen
from proxy.upstream.gate import GateClosed, Gates, Limit, Passage
from proxy.upstream.quota import Quotas
from proxy.upstream.settings import BreakerSettings
from proxy.upstream.state import EndpointState, LastFault, QuotaLeft, Throttled

HELD_BACK_MAX_S: Final = 600.0
# Behind each who waits may stand a crowd: told all at once, they would hold up whoever asks for what is held.
ONE_BY_ONE_S: Final = 0.01
ALL_TOLD_S: Final = 2.0


class Standing:
    """The state of the endpoint `origin`. `on_open` is called when the breaker opens; `before` is its state under other
    settings, which goes on: a reload is no new start for whoever throttles us or is away.
    """

    def __init__(
        self,
        upstream: str,
        origin: str,
        breaker: BreakerSettings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        on_open: Callable[[], None],
        before: "Standing | None" = None,
    ) -> None:
        self._upstream = upstream
        self._origin = origin
        self._monotonic = monotonic
        self._on_open = on_open
        self._waiting: dict[asyncio.Timeout, None] = {}  # in the order in which they came
        self.breaker = Breaker(breaker, monotonic=monotonic, rng=rng, on_open=self._opened)
        self.gates: Gates = Gates(monotonic=monotonic, rng=rng) if before is None else before.gates
        self.quotas: Quotas = Quotas(monotonic=monotonic) if before is None else before.quotas
        self._last_fault: tuple[Failure, str, float] | None = None
        self._last_break: tuple[Failure, str, float] | None = None
        self._answered_at: float | None = None
        if before is not None:
            self.breaker.follow(before.breaker)
            self._last_fault, self._last_break = before._last_fault, before._last_break
            self._answered_at = before._answered_at

    @asynccontextmanager
    async def passage(self, place: URL, credentials: str | None, *, counted: bool) -> AsyncIterator["Way"]:
        """Through the gates of the server `place`; raises UpstreamThrottled. `counted`: the request is a pull."""
        limits = (Limit.REQUESTS, Limit.PULLS) if counted else (Limit.REQUESTS,)
        try:
            async with AsyncExitStack() as stack:
                gates = [self.gates.at(place, credentials, limit) for limit in limits]
                yield Way([await stack.enter_async_context(gate.passage()) for gate in gates])
        except GateClosed as gate:
            who = "anonymous access" if credentials is None else f"the credentials {credentials}"
            why = f"it has asked {who} to slow down"
            raise UpstreamThrottled(self._upstream, why, gate.left_s) from None

    def throttled(self, place: URL, credentials: str | None, error: UpstreamThrottled) -> UpstreamThrottled:
        """A 429 was heard: close the gate; the error to raise, with the time it is closed for."""
        limit = Limit.PULLS if error.is_pull_limit else Limit.REQUESTS
        error.retry_after_s = self.gates.at(place, credentials, limit).strike(error.retry_after_s)
        self.failed(error)
        return error

    def hold_back(self, credentials: str | None, reserve: float) -> None:
        """For background work: raises UpstreamThrottled while only the share `reserve` of the pulls is left."""
        held_back_s = self.quotas.held_back_s(credentials, reserve)
        if held_back_s > 0:
            why = "its last pulls are left to clients"
            raise UpstreamThrottled(self._upstream, why, min(held_back_s, HELD_BACK_MAX_S), is_pull_limit=True)

    def refuse_left_alone(self) -> None:
        """Raise UpstreamUnavailable while the circuit is open: before anybody waits for a slot that a body may hold."""
        if (error := self.left_alone()) is not None:
            raise error

    def left_alone(self) -> UpstreamUnavailable | None:
        """The error of a request now, if the circuit is open."""
        if not self.breaker.is_open:
            return None
        wait_s = max(1.0, self.breaker.wait_s)
        return UpstreamUnavailable(self._upstream, self._why_left_alone(), wait_s, failure=Failure.LEFT_ALONE)

    @contextmanager
    def call(self) -> Iterator[Call]:
        """A call that the breaker hears of: failures that count count, what else is raised says nothing."""
        try:
            call = self.breaker.enter()
        except CircuitOpen as circuit:
            raise UpstreamUnavailable(
                self._upstream, self._why_left_alone(), circuit.retry_after_s, failure=Failure.LEFT_ALONE
            ) from None
        try:
            yield call
        except UpstreamFault as error:
            if policy_of(error).counts:
                call.failed()
            self.failed(error)
            raise
        except BaseException:
            call.abandon()
            raise

    @asynccontextmanager
    async def patience(self) -> AsyncIterator[None]:
        """The wait for a slot or an answer's head: over for everybody when the circuit opens, one after the other.
        Entered while the circuit is closed; raises UpstreamUnavailable.

        Whoever joined such a wait would else be told after a whole timeout what the next one is told at once.
        """
        deadline = asyncio.timeout(None)
        try:
            async with deadline:
                self._waiting[deadline] = None
                try:
                    yield
                finally:
                    self._waiting.pop(deadline, None)
        except TimeoutError:
            if not deadline.expired():
                raise
            wait_s = max(1.0, self.breaker.wait_s)
            raise UpstreamUnavailable(
                self._upstream, self._why_left_alone(), wait_s, failure=Failure.LEFT_ALONE
            ) from None

    async def turn(self) -> None:
        """Within `patience`, for who has waited for something else: go on, or be told with the others, in turn."""
        if self.breaker.is_open:
            await asyncio.get_running_loop().create_future()

    def _opened(self) -> None:
        waiting, self._waiting = self._waiting, {}
        now = asyncio.get_running_loop().time()
        step_s = min(ONE_BY_ONE_S, ALL_TOLD_S / max(1, len(waiting)))
        for number, deadline in enumerate(waiting):
            deadline.reschedule(now + number * step_s)
        self._on_open()

    def _why_left_alone(self) -> str:
        since = self.breaker.opened_at
        minutes = 0 if since is None else round((self._monotonic() - since) / 60)
        last = "" if self._last_fault is None else f"; last: {self._last_fault[0].value}"
        return f"it failed too often, and is left alone{f' for {minutes} min so far' if minutes else ''}{last}"

    def failed(self, error: UpstreamFault) -> None:
        """Remember a fault, to be shown; not that the endpoint is left alone: that would hide why it is."""
        if error.failure is not Failure.LEFT_ALONE:
            self._last_fault = (error.failure, str(error), self._monotonic())

    def broke(self, error: UpstreamFault | None) -> None:
        """A body broke off, or (None) came to its end. Good headers do not outweigh it, as they do a fault."""
        self._last_break = None if error is None else (error.failure, str(error), self._monotonic())

    def answered(self, credentials: str | None, headers: Headers) -> None:
        """The endpoint itself gave an answer below 500: it is alive, and may tell its quota."""
        self._last_fault, self._answered_at = None, self._monotonic()
        told = quota.read(headers)
        if told is not None:
            self.quotas.hear(credentials, told)

    def state(self) -> EndpointState:
        """A look, for health, `explain` and metrics."""
        now, breaker = self._monotonic(), self.breaker
        opened_at = breaker.opened_at if breaker.is_open else None
        return EndpointState(
            url=public_url(self._origin),
            circuit=breaker.state,
            open_for_s=None if opened_at is None else now - opened_at,
            next_probe_s=breaker.wait_s if breaker.is_open else None,
            last_fault=_told(self._last_fault, now),
            last_break=_told(self._last_break, now),
            answered_ago_s=None if self._answered_at is None else now - self._answered_at,
            throttled=tuple(
                Throttled(one.credentials, one.limit.value, one.left_s)
                for one in self.gates.closed(URL(self._origin).origin())
            ),
            quotas=tuple(
                QuotaLeft(credentials, told.remaining, told.limit, told.source, ago_s)
                for credentials, (told, ago_s) in self.quotas.readings().items()
            ),
        )


class Body:
    """What the endpoint's standing hears of one body. Whether it began speaks of the endpoint's health; how it broke
    off is only kept to be shown: its rest is asked for by Range, and that request speaks for itself.
    """

    __slots__ = ("_call", "_standing")

    def __init__(self, standing: Standing, call: Call) -> None:
        self._standing = standing
        self._call = call

    def began(self) -> None:
        self._call.succeeded()

    def broke(self, error: UpstreamFault) -> None:
        if policy_of(error).counts:
            self._call.failed()
        self._standing.broke(error)

    def ended(self) -> None:
        self._call.succeeded()  # an empty body is a body
        self._standing.broke(None)

    def left(self) -> None:
        self._call.abandon()


class Way:
    """The passages of one request."""

    __slots__ = ("_passages",)

    def __init__(self, passages: list[Passage]) -> None:
        self._passages = passages

    def answered(self) -> None:
        """The server gave another answer than 429."""
        for passage in self._passages:
            passage.answered()


def _told(heard: tuple[Failure, str, float] | None, now: float) -> LastFault | None:
    return None if heard is None else LastFault(heard[0], heard[1], now - heard[2])
