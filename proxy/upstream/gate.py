"""The gate that an upstream's 429 closes: nothing is asked through it until the time it named has passed.

A gate belongs to one credential at one server, not to a repository: that is how registries count. It is not the
breaker: who throttles is alive. Docker Hub sends two kinds (protocol U21): the pull limit, for hours, on GET of
manifests only; and the abuse limit, for about a minute, on everything. After the wait one request goes first, and the
others wait for what it hears. Knows no HTTP. Times are monotonic: no clock that jumps opens or locks a gate.
"""

import asyncio
import enum
import random
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

GATES_MAX: Final = 1024
WAIT_MAX_S: Final = 3600.0  # an upstream that says ten years is asked again after an hour
TOLD_MIN_S: Final = 1.0  # doubled with each 429 in a row, up to UNTOLD_S: a Retry-After of 0 makes no storm
JITTER: Final = 0.1  # of the wait, on top


class Limit(enum.Enum):
    """Which limit was hit: the value is its word in health and metrics."""

    PULLS = "pulls"
    REQUESTS = "requests"


# The wait when none was told, doubled with each 429 in a row, and its bound.
UNTOLD_S: Final = {Limit.PULLS: (900.0, WAIT_MAX_S), Limit.REQUESTS: (60.0, 600.0)}


class GateClosed(Exception):
    """Nothing is asked for `left_s` more."""

    def __init__(self, gate: "Gate", left_s: float) -> None:
        super().__init__(f"the gate is closed for {left_s:.1f} s more")
        self.gate = gate
        self.left_s = left_s


class Gate:
    """Open until it is struck."""

    def __init__(
        self, limit: Limit, *, monotonic: Callable[[], float], rng: Callable[[], float] = random.random
    ) -> None:
        self._limit = limit
        self._monotonic = monotonic
        self._rng = rng
        self._until = 0.0
        self._strikes = 0
        self._scout: asyncio.Future[None] | None = None

    @property
    def left_s(self) -> float:
        return max(0.0, self._until - self._monotonic()) if self._strikes else 0.0

    @asynccontextmanager
    async def passage(self) -> AsyncIterator["Passage"]:
        """Pass for one request, as `enter`; left at its end."""
        passage = await self.enter()
        try:
            yield passage
        finally:
            passage.leave()

    async def enter(self) -> "Passage":
        """Pass, or raise GateClosed. After the wait the first goes alone; who comes meanwhile waits for its word."""
        while True:
            if self.left_s > 0:
                raise GateClosed(self, self.left_s)
            if not self._strikes:
                return Passage(self, None)
            if self._scout is None:
                self._scout = asyncio.get_running_loop().create_future()
                return Passage(self, self._scout)
            await asyncio.shield(self._scout)

    def strike(self, told_s: float | None) -> float:
        """A 429 was heard, with a Retry-After of `told_s` or none: close. Returns the wait in seconds."""
        if self.left_s > 0:  # requests that were under way together hit one limit once
            return self._closed(max(self.left_s, min(told_s or 0.0, WAIT_MAX_S)))
        doubled = 2.0 ** min(self._strikes, 16)
        self._strikes += 1
        untold_s, most_s = UNTOLD_S[self._limit]
        if told_s is None:
            return self._closed(min(untold_s * doubled, most_s) * (1 + JITTER * self._rng()))
        least_s = min(TOLD_MIN_S * doubled, untold_s)
        return self._closed(min(max(told_s, least_s), WAIT_MAX_S) + self._rng())

    def _closed(self, wait_s: float) -> float:
        self._until = max(self._until, self._monotonic() + wait_s)
        return wait_s

    def _left(self, scout: "asyncio.Future[None] | None", *, answered: bool) -> None:
        if scout is not None and self._scout is scout:
            self._scout = None
            scout.set_result(None)
            if answered and self.left_s == 0:
                self._strikes = 0


class Passage:
    """One request's way through a gate. Leaves once: `answered` opens the gate for all, `leave` says nothing."""

    __slots__ = ("_gate", "_scout")

    def __init__(self, gate: Gate, scout: "asyncio.Future[None] | None") -> None:
        self._gate = gate
        self._scout = scout

    def answered(self) -> None:
        """The upstream gave an answer other than 429."""
        self._gate._left(self._scout, answered=True)

    def leave(self) -> None:
        self._gate._left(self._scout, answered=False)


@dataclass(frozen=True, slots=True)
class Throttle:
    """A gate that is closed now, for `left_s` more seconds. `credentials` None is anonymous."""

    credentials: str | None
    limit: Limit
    left_s: float


class Gates:
    """The gates of one endpoint and of the places it leads to. `place` is a server's origin, or a token realm."""

    def __init__(self, *, monotonic: Callable[[], float], rng: Callable[[], float] = random.random) -> None:
        self._monotonic = monotonic
        self._rng = rng
        self._gates: LRUCache[tuple[Hashable, str | None, Limit], Gate] = LRUCache(GATES_MAX)

    def at(self, place: Hashable, credentials: str | None, limit: Limit) -> Gate:
        key = (place, credentials, limit)
        gate = self._gates.get(key)
        if gate is None:
            gate = self._gates[key] = Gate(limit, monotonic=self._monotonic, rng=self._rng)
        return gate

    def forget(self, credentials: str) -> None:
        """Open all gates of a credential set: it is another user's now, or another plan's."""
        for key in [key for key in self._gates if key[1] == credentials]:
            del self._gates[key]

    def closed(self, place: Hashable) -> list[Throttle]:
        """The gates of one place that are closed now."""
        return [
            Throttle(credentials, limit, gate.left_s)
            for (known, credentials, limit), gate in self._gates.items()
            if known == place and gate.left_s > 0
        ]
