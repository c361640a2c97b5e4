"""How often one thing is asked for, and where: endpoints in order, retries within a budget, repeats from it too.

In any storm an upstream sees at most 1.1 times the distinct things asked for, and three more in ten seconds; then its
breaker opens. A retry comes only before the first byte, after a jittered pause; what had begun goes on by Range, which
is the transfer's business and free while it gains bytes. Another endpoint is asked only for an outage or a limit:
what one registry denies or does not have is an answer.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from cachetools import LRUCache

from proxy.errors import UpstreamDenied, UpstreamFault, UpstreamThrottled, UpstreamTimeout, UpstreamUnavailable
from proxy.failures import policy_of
from proxy.upstream.bandwidth import Sleep
from proxy.upstream.endpoint import Endpoint

Value = TypeVar("Value")

PAUSE_S: Final = 0.25  # at most, before the one retry of a request
PATIENCE_S: Final = 1.0  # an upstream that wants to be left alone for longer is not retried at once
SHARE: Final = 0.1  # of a retry, earned by each first try
EARNED_MAX: Final = 20.0
FLOOR: Final = 3
FLOOR_S: Final = 10.0
FAILED_MAX: Final = 10_000
REPEAT_S: Final = 1.0
FORGOTTEN_S: Final = 60.0
GIVES_WAY: Final = (UpstreamUnavailable, UpstreamTimeout, UpstreamThrottled)


class Budget:
    """The retries of one upstream: a tenth of its first tries, and `FLOOR` in `FLOOR_S` seconds in any case."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._earned = 0.0
        self._given: deque[float] = deque(maxlen=FLOOR)

    def earn(self) -> None:
        """A first try was made."""
        self._earned = min(self._earned + SHARE, EARNED_MAX)

    def take(self) -> bool:
        """Take one retry; whether there was one."""
        if self._earned >= 1.0:
            self._earned -= 1.0
            return True
        now = self._monotonic()
        if len(self._given) == FLOOR and now - self._given[0] < FLOOR_S:
            return False
        self._given.append(now)
        return True


@dataclass(frozen=True, slots=True)
class Failed:
    """A thing's last failure, when (monotonic seconds), and for how long the same request then costs a retry. `version`
    is that of the credentials it was asked with.
    """

    error: UpstreamFault
    at: float
    repeat_s: float
    version: int


class Versions(Protocol):
    """How often a credential set has changed."""

    def last_version(self, credentials: str | None) -> int:
        """As far as it is known."""

    async def version(self, credentials: str) -> int:
        """Its secret read now."""


class Unchanging:
    """Versions of no sets."""

    def last_version(self, credentials: str | None) -> int:
        return 0

    async def version(self, credentials: str) -> int:
        return 0


def _bare(error: UpstreamFault) -> UpstreamFault:
    """The same error without where it was raised: a remembered traceback would keep the bodies of its call."""
    copied = type(error).__new__(type(error))
    copied.args = error.args
    copied.__dict__.update(error.__dict__)
    return copied


class Attempts:
    """The attempts at one upstream. `thing` names what is asked for, whoever asks."""

    def __init__(
        self,
        upstream: str,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        sleep: Sleep = asyncio.sleep,
        versions: Versions | None = None,
    ) -> None:
        self._upstream = upstream
        self._versions = versions or Unchanging()
        self._rng = rng
        self._sleep = sleep
        self._budget = Budget(monotonic)
        self._monotonic = monotonic
        self._answered_at = float("-inf")
        self._failed: LRUCache[Hashable, Failed] = LRUCache(FAILED_MAX)
        self._cut: LRUCache[Hashable, Endpoint] = LRUCache(FAILED_MAX)  # where the last body of a thing broke off

    async def make(
        self,
        thing: Hashable,
        endpoints: Sequence[Endpoint],
        call: Callable[[Endpoint], Awaitable[Value]],
        *,
        credentials: str | None = None,
        goes_on: bool = False,
    ) -> Value:
        """What `call` gives at the first endpoint that has an answer. `goes_on`: it is the rest of a body that had
        begun, asked for where it did not break off; free as long as it gains bytes, and its pauses are the transfer's.
        """
        await self._reconsider(thing)
        self._pay(thing, goes_on=goes_on)
        version, is_retry = self._versions.last_version(credentials), False
        while True:
            try:
                value = await self._once(self._ordered(thing, endpoints), call)
            except UpstreamFault as error:
                if goes_on or is_retry or not self._may_retry(error):
                    self._note(thing, error, version)
                    raise
                # Full jitter: those that one fault met together must not come back in step.
                await self._sleep(PAUSE_S * self._rng())
                is_retry = True
            else:
                self._answered_at = self._monotonic()
                if not goes_on:
                    self._failed.pop(thing, None)
                return value

    def _may_retry(self, error: UpstreamFault) -> bool:
        is_patient = (error.retry_after_s or 0.0) <= PATIENCE_S
        return policy_of(error).retried and is_patient and self._budget.take()

    async def _reconsider(self, thing: Hashable) -> None:
        """A denial is of the secret that it was told to, and says nothing of a later one."""
        failed = self._failed.get(thing)
        if failed is None or not isinstance(failed.error, UpstreamDenied) or failed.error.credentials is None:
            return
        if await self._versions.version(failed.error.credentials) != failed.version:
            self._failed.pop(thing, None)

    def _pay(self, thing: Hashable, *, goes_on: bool) -> None:
        """A repeat of what has just failed costs a retry; without one it has the same answer. Others earn a share."""
        failed = self._failed.get(thing)
        if failed is None:
            if not goes_on:
                self._budget.earn()
            return
        is_back = goes_on and self._answered_at > failed.at
        is_over = self._monotonic() - failed.at >= failed.repeat_s
        if not (is_back or is_over) and not self._budget.take():
            raise _bare(failed.error)

    def _note(self, thing: Hashable, error: UpstreamFault, version: int = 0) -> None:
        """A repeat costs a retry for a second, for two when it fails again, and so on up to the policy's bound."""
        most_s, now = policy_of(error).repeat_s, self._monotonic()
        if not most_s:
            return
        before = self._failed.get(thing)
        grown_s = 0.0 if before is None or now - before.at > FORGOTTEN_S else before.repeat_s * 2
        self._failed[thing] = Failed(_bare(error), now, min(max(grown_s, REPEAT_S), most_s), version)

    def _ordered(self, thing: Hashable, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Healthy ones first, in their order; last the one where the body of this very thing broke off."""
        broke = self._cut.get(thing)
        return sorted(endpoints, key=lambda endpoint: (endpoint.breaker.is_open, endpoint is broke))

    async def _once(self, endpoints: Sequence[Endpoint], call: Callable[[Endpoint], Awaitable[Value]]) -> Value:
        """The first endpoint's answer that is no outage and no limit, else the first of those."""
        failed: UpstreamFault | None = None
        for endpoint in endpoints:
            try:
                return await call(endpoint)
            except GIVES_WAY as error:
                failed = failed or error
        raise failed or UpstreamUnavailable(self._upstream, "it has no endpoint")

    def broke_off(self, thing: Hashable, endpoint: Endpoint, error: UpstreamFault, *, gained: bool) -> None:
        """A body broke off: its rest is asked for elsewhere first. One that gave no byte was a failed try."""
        self._cut[thing] = endpoint
        if gained:
            self._failed.pop(thing, None)
        else:
            self._note(thing, error)

    def whole(self, thing: Hashable) -> None:
        """A body came to its end."""
        self._cut.pop(thing, None)
        self._failed.pop(thing, None)
