"""How fast bytes may be received: a token bucket over bytes that have already arrived.

A reader charges what it got and then waits, in the order of the charges, before it reads on; meanwhile the kernel's
buffers fill and TCP slows the sender down. Nothing that arrived is ever held back or dropped.
aiolimiter's bucket refuses more than its rate at once, lets small amounts overtake large ones for ever, and knows only
the loop's own clock; so this is its arithmetic (a virtual schedule, GCRA) without its queue.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from proxy.upstream.settings import HydrateSettings

BURST_S: Final = 0.25  # so much unused time is kept for later
LOOK_AGAIN_S: Final = 0.2  # how soon background work notices that a client waits for it

Sleep = Callable[[float], Awaitable[None]]


class Bandwidth:
    """At most `rate` bytes a second over all who charge it."""

    def __init__(self, rate: float, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._monotonic = monotonic
        self._free_at = float("-inf")

    def charge(self, size: int) -> None:
        """Count `size` bytes that were received."""
        self._free_at = max(self._free_at, self._monotonic() - BURST_S) + size / self.rate

    @property
    def wait_s(self) -> float:
        """Seconds until all that was charged is paid."""
        return max(0.0, self._free_at - self._monotonic())


class Background:
    """What work that nobody waits for may take: `bandwidth` (None is all), and of an upstream's pulls those beyond the
    share `quota_reserve`.
    """

    def __init__(self, settings: HydrateSettings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self.bandwidth: Bandwidth | None = None
        self.take(settings)

    def take(self, settings: HydrateSettings) -> None:
        """From now on these settings."""
        self.quota_reserve, rate = settings.quota_reserve, settings.max_bandwidth
        if rate is None or self.bandwidth is None or self.bandwidth.rate != rate:
            self.bandwidth = None if rate is None else Bandwidth(rate, monotonic=self._monotonic)


def never() -> bool:
    return False


class Pace:
    """One body's pace: `line` is its upstream's bandwidth, `background` that of hydration, in force while nobody waits
    for this body (`is_urgent`).
    """

    def __init__(
        self,
        line: Bandwidth | None = None,
        background: Bandwidth | None = None,
        *,
        is_urgent: Callable[[], bool] = never,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._line = line
        self._background = background
        self._is_urgent = is_urgent
        self._sleep = sleep

    async def received(self, size: int) -> None:
        """Charge `size` bytes, and wait until the next may be read."""
        if self._line is not None:
            self._line.charge(size)
        if self._background is not None and not self._is_urgent():
            self._background.charge(size)
            # In short sleeps: a client that joins must not wait for what only hydration owes.
            while (left_s := self._background.wait_s) > 0 and not self._is_urgent():
                await self._sleep(min(left_s, LOOK_AGAIN_S))
        if self._line is not None and (left_s := self._line.wait_s) > 0:
            await self._sleep(left_s)
