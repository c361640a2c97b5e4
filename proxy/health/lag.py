"""How late the event loop runs: a task sleeps a little and looks how much later it woke."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

NAP_S: Final = 0.5
KEPT: Final = 30  # naps: the last quarter of a minute


class LoopLag:
    """The worst lag of late, in seconds."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._late_s: deque[float] = deque(maxlen=KEPT)

    @property
    def worst_s(self) -> float:
        return max(self._late_s, default=0.0)

    async def run(self, pause: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Measure until cancelled."""
        while True:
            slept_at = self._monotonic()
            await pause(NAP_S)
            self._late_s.append(max(0.0, self._monotonic() - slept_at - NAP_S))
