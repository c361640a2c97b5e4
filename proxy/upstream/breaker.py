"""A circuit breaker per endpoint: pybreaker's three states behind a gate that knows asyncio.

pybreaker by itself lets every waiting call through at half-open, counts a leaving client as a failure (or, excluded, as
a success that closes the circuit), and takes the late results of an older state. Here a call asks first (`enter`),
and reports last, once, what it learnt of the upstream's health; cancellations and bad content report nothing. No call
of a client is ever the probe: while the circuit is open only `probe` enters, one at a time, sent by the `Prober`.
Knows no HTTP.
"""

import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import pybreaker

from proxy.upstream.settings import BreakerSettings

CALLS_MAX: Final = 4096
DOUBLINGS_MAX: Final = 2  # a probe is due after reset_after, twice that, then four times that, and no longer
JITTER: Final = 0.2  # of the wait, on top: members that fail together must not come back together


class CircuitOpen(Exception):
    """No call now; `retry_after_s` until it is worth another try."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(f"the circuit is open; the next probe is due in {retry_after_s:.1f} s")
        self.retry_after_s = retry_after_s


class _Failed(Exception):
    """What pybreaker is told of a failed call."""


def nobody() -> None:
    """Nobody hears of the opening."""


class Breaker:
    """Opens after `failures` in a row, or `failures` within `window_s` that are more than half of its calls; a probe
    that succeeds closes it. Until a call has then succeeded too, the first failure opens it again: an endpoint may
    answer the probe and nothing else.
    """

    def __init__(
        self,
        settings: BreakerSettings,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        on_open: Callable[[], None] = nobody,
    ) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._rng = rng
        self._on_open = on_open
        self._circuit = pybreaker.CircuitBreaker(
            fail_max=settings.failures, reset_timeout=settings.reset_after_s, throw_new_error_on_trip=False
        )
        self._generation = 0
        self._probe: Call | None = None
        self._calls: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._openings = 0  # since it was last well for a whole window: what the wait doubles with
        self._on_trial = False
        self._closed_at = 0.0
        self._probe_at = 0.0
        self.opened_at: float | None = None  # of the first opening in a row

    @property
    def state(self) -> str:
        """closed, open or half-open."""
        return str(self._circuit.current_state)

    @property
    def is_open(self) -> bool:
        """Whether a call now would be refused."""
        return self.state != pybreaker.STATE_CLOSED

    @property
    def wait_s(self) -> float:
        """Seconds until the next probe is due; 0 while closed."""
        return max(0.0, self._probe_at - self._monotonic()) if self.is_open else 0.0

    def follow(self, before: "Breaker") -> None:
        """Begin where the breaker of the same endpoint under other settings was left. If that was open, the first probe
        is due at once: the other settings may be the cure.
        """
        self._calls, self._failures = before._calls.copy(), before._failures
        self._openings, self._on_trial, self._closed_at = before._openings, before._on_trial, before._closed_at
        self.opened_at = before.opened_at
        if before.is_open:
            self._circuit.open()
            self._probe_at = self._monotonic()
            return
        for _ in range(min(before._circuit.fail_counter, self._settings.failures - 1)):
            with suppress(_Failed):
                self._circuit.call(_outcome, False)

    def enter(self) -> "Call":
        """Ask to call; raises CircuitOpen unless the circuit is closed. Look and enter in one step."""
        if self.is_open:
            raise CircuitOpen(max(1.0, self.wait_s))
        return Call(self, self._generation)

    def probe(self) -> "Call | None":
        """The one call that may enter while the circuit is open; None if it is closed, or one is under way."""
        if not self.is_open or self._probe is not None:
            return None
        if self.state == pybreaker.STATE_OPEN:
            self._circuit.half_open()
        self._probe = Call(self, self._generation)
        return self._probe

    def _report(self, call: "Call", *, healthy: bool | None) -> None:
        if call is self._probe:
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
        if self._on_trial and not healthy:
            self._circuit.open()
            return
        now = self._monotonic()
        if healthy:
            self._on_trial = False
            if now - self._closed_at >= self._settings.window_s:
                self._openings, self.opened_at = 0, None
        self._calls.append((now, healthy))
        self._failures += not healthy
        while self._calls[0][0] < now - self._settings.window_s or len(self._calls) > CALLS_MAX:
            self._failures -= not self._calls.popleft()[1]
        if self._failures >= self._settings.failures and self._failures * 2 > len(self._calls):
            self._circuit.open()

    def _changed(self) -> None:
        """The circuit has just opened or closed."""
        self._generation += 1
        self._calls.clear()
        self._failures = 0
        now = self._monotonic()
        if self.state == pybreaker.STATE_OPEN:
            wait_s = self._settings.reset_after_s * 2 ** min(self._openings, DOUBLINGS_MAX)
            self._probe_at = now + wait_s * (1 + JITTER * self._rng())
            self._openings += 1
            self.opened_at = now if self.opened_at is None else self.opened_at
            self._on_open()
        else:
            self._closed_at, self._on_trial = now, True


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
