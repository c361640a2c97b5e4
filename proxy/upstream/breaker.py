"""A circuit breaker per endpoint: pybreaker's three states behind a gate that knows asyncio.

pybreaker by itself lets every waiting call through at half-open, counts a leaving client as a failure (or, excluded, as
a success that closes the circuit), and takes the late results of an older state. Here a call asks first (`enter`),
and reports last, once, what it learnt of the upstream's health; cancellations and bad content report nothing.
Knows no HTTP. Invariant: at most one call runs while the circuit is half open.
"""

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pybreaker

from proxy.upstream.settings import BreakerSettings

CALLS_MAX: Final = 4096


class CircuitOpen(Exception):
    """No call now; `retry_after_s` until the next may try."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the circuit is open for {retry_after_s:.1f} s more")
        self.retry_after_s = retry_after_s


class _Failed(Exception):
    """What pybreaker is told of a failed call."""


class Breaker:
    """Opens after `failures` in a row, or `failures` within `window_s` that are more than half of its calls; after
    `reset_after_s` one probe decides.
    """

    def __init__(self, settings: BreakerSettings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._circuit = pybreaker.CircuitBreaker(
            fail_max=settings.failures, reset_timeout=settings.reset_after_s, throw_new_error_on_trip=False
        )
        self._opened_at = 0.0
        self._generation = 0
        self._probe: Call | None = None
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        return str(self._circuit.current_state)

    @property
    def is_open(self) -> bool:
        """Whether a call now would be refused."""
        return self._wait_s() > 0

    def _wait_s(self) -> float:
        if self.state == pybreaker.STATE_CLOSED:
            return 0.0
        left = self._opened_at + self._settings.reset_after_s - self._monotonic()
        if self.state == pybreaker.STATE_OPEN and left > 0:
            return left
        return 1.0 if self._probe is not None else 0.0

    def enter(self) -> "Call":
        """Ask to call; raises CircuitOpen. Look and enter in one step: no await between."""
        wait_s = self._wait_s()
        if wait_s > 0:
            raise CircuitOpen(wait_s)
        call = Call(self, self._generation)
        if self.state != pybreaker.STATE_CLOSED:
            if self.state == pybreaker.STATE_OPEN:
                self._circuit.half_open()
            self._probe = call
        return call

    def _report(self, call: "Call", *, healthy: bool | None) -> None:
        is_probe = call is self._probe
        if is_probe:
            self._probe = None
        # A result from before the circuit last changed says nothing about now.
        if healthy is None or call.generation != self._generation:
            return
        before = self.state
        with suppress(_Failed, pybreaker.CircuitBreakerError):
            self._circuit.call(_outcome, healthy)
        if self.state == pybreaker.STATE_CLOSED and before == pybreaker.STATE_CLOSED:
            self._count(healthy=healthy)
        if self.state != before:
            self._changed()

    def _count(self, *, healthy: bool) -> None:
        now = self._monotonic()
        self._calls.append((now, healthy))
        self._failures += not healthy
        while self._calls[0][0] < now - self._settings.window_s or len(self._calls) > CALLS_MAX:
            self._failures -= not self._calls.popleft()[1]
        if self._failures >= self._settings.failures and self._failures * 2 > len(self._calls):
            self._circuit.open()

    def _changed(self) -> None:
        self._generation += 1
        self._calls.clear()
        self._failures = 0
        if self.state == pybreaker.STATE_OPEN:
            self._opened_at = self._monotonic()


class Call:
    """One call under way. Reports once; leaving without a report says nothing about the upstream."""

    __slots__ = ("_breaker", "_is_done", "generation")

    def __init__(self, breaker: Breaker, generation: int) -> None:
        self._breaker = breaker
        self._is_done = False
        self.generation = generation

    def succeeded(self) -> None:
        self._settle(healthy=True)

    def failed(self) -> None:
        self._settle(healthy=False)

    def abandon(self) -> None:
        """Nothing was learnt: cancelled, or an answer that does not speak of health."""
        self._settle(healthy=None)

    def _settle(self, *, healthy: bool | None) -> None:
        if not self._is_done:
            self._is_done = True
            self._breaker._report(self, healthy=healthy)


def _outcome(healthy: bool) -> None:
    if not healthy:
        raise _Failed
