"""What goes wrong during a soak, and when: periods of trouble, and which of them excuse a pull that failed.

Knows no client and no server. Times are the event loop's.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

# Troubles under which every pull must still succeed: they cost time only.
HARMLESS: Final = frozenset({"slow", "narrow", "reload", "broken reload", "move", "evict"})
# Cistern itself is away: whatever is pulled meanwhile may fail.
AWAY: Final = frozenset({"killed", "terminated"})
GRACE_S: Final = 4.0  # probes back off to four times `reset_after`, and a failure is remembered for a second
# A gate closes for longer with each 429 in a row. (One without Retry-After would close it for a quarter of an hour.)
GRACE_OF: Final = {"429": 60.0}


@dataclass(slots=True)
class Period:
    """One trouble from `start` to `end`, which is None while it lasts."""

    kind: str
    start: float
    end: float | None = None

    def touches(self, start: float, end: float, grace_s: float = 0.0) -> bool:
        return self.start <= end and (self.end is None or self.end + grace_s >= start)


class Weather:
    """Every trouble so far."""

    def __init__(self) -> None:
        self.periods: list[Period] = []

    @contextmanager
    def period(self, kind: str) -> Iterator[Period]:
        """A trouble that lasts as long as the block."""
        made = Period(kind, asyncio.get_running_loop().time())
        self.periods.append(made)
        try:
            yield made
        finally:
            made.end = asyncio.get_running_loop().time()

    @property
    def is_away(self) -> bool:
        """Whether Cistern is away now."""
        return any(period.kind in AWAY and period.end is None for period in self.periods)

    def excuses(self, start: float, end: float, *, held: bool) -> str | None:
        """The trouble for which a pull between `start` and `end` may have failed; None: there was none.

        Content that is held needs no upstream: only Cistern's own absence excuses it.
        """
        for period in reversed(self.periods):
            if period.kind in AWAY and period.touches(start, end):
                return period.kind
            if (
                not held
                and period.kind not in HARMLESS | AWAY
                and period.touches(start, end, GRACE_OF.get(period.kind, GRACE_S))
            ):
                return period.kind
        return None
