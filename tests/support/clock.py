"""A clock that a test turns by hand: pass it wherever a room takes `clock: Callable[[], float]`."""

import asyncio
import time


class Clock:
    """`clock()` is the time in seconds; it stands still until `advance`. It starts at a plausible Unix time."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._turned = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Turn the clock on by `seconds`; a negative number turns it back, as NTP may. Wakes who has slept enough."""
        self._now += seconds
        self._turned += max(0.0, seconds)
        for due, sleeper in list(self._sleepers):
            if due <= self._now and not sleeper.done():
                sleeper.set_result(None)

    def monotonic(self) -> float:
        """Real monotonic seconds, and those by which the clock was turned on: for a proxy whose time also flows."""
        return time.monotonic() + self._turned

    async def sleep(self, seconds: float) -> None:
        """Sleep until the clock has been turned on by `seconds`: in the place of `asyncio.sleep`."""
        if seconds <= 0:
            await asyncio.sleep(0)  # as asyncio has it: also who sleeps for nothing gives its turn away
            return
        sleeper = (self._now + seconds, asyncio.get_running_loop().create_future())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1]
        finally:
            self._sleepers.remove(sleeper)

    @property
    def sleeping(self) -> list[float]:
        """How long each sleeper has to sleep yet, in seconds, the shortest first."""
        return sorted(due - self._now for due, sleeper in self._sleepers if not sleeper.done())
