"""The background check: every blob is hashed once in `every`, those first that nobody has checked yet.

The pace is even: in `every` seconds as many bytes as are stored. What has no seal (after an unclean stop, a lost index)
or is overdue goes at the full allowed bandwidth. Order and progress stand in the seals, so a restart loses nothing.
Invariant: it never waits in a client's way: one thread of the lowest priority, one blob at a time.
"""

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.ground import Ground
from proxy.log import logger
from proxy.oci import Digest
from proxy.store.base import Verdict
from proxy.store.seals import Due, Seals

log = logger("scrub")

IDLE_S: Final = 60.0  # between looks for something that is due; no pause between two blobs is longer either
LOOK_AGAIN_S: Final = 3600.0  # between walks over the store for what has no seal
BATCH: Final = 64  # blobs between two sync points
EARLY: Final = 0.5  # of a period: what was checked less long ago is not checked again


@dataclass(frozen=True, slots=True)
class Pace:
    """One round in `every_s` seconds (infinite: none), and never more than `max_bytes_per_s` (infinite: no limit)."""

    every_s: float
    max_bytes_per_s: float

    def rate(self, total_bytes: int) -> float:
        """Bytes per second at which a round of so many bytes takes its time."""
        return min(self.max_bytes_per_s, max(1.0, total_bytes / self.every_s))

    def rate_for(self, due: Due, total_bytes: int, now: float) -> float | None:
        """How fast to check this blob now; None: not yet."""
        age_s = now - due.checked_at
        if 0 <= age_s < self.every_s * EARLY:
            return None
        return self.max_bytes_per_s if age_s >= self.every_s else self.rate(total_bytes)

    def is_too_slow(self, total_bytes: int) -> bool:
        """Whether a round cannot be done in time."""
        return self.max_bytes_per_s * self.every_s < total_bytes


class Scrub:
    """Start `run` as a task. `pace` tells the wanted pace of the moment."""

    def __init__(
        self,
        ground: Ground,
        seals: Seals,
        pace: Callable[[], Pace],
        mend: Callable[[Digest], Awaitable[str | None]],
    ) -> None:
        self._store = ground.blobs
        self._seals = seals
        self._pace = pace
        self._mend = mend
        self._clock = ground.clock
        self._monotonic = ground.monotonic
        self._sleep = ground.sleep
        self._rate = 0.0
        self._walked_at: float | None = None
        self.checked_bytes = 0
        self.found_bad = 0

    async def run(self) -> None:
        """Check, for ever; not right at the start, when clients come in a rush."""
        worked = False
        while True:
            if not worked:
                await self._sleep(IDLE_S)
            try:
                worked = await self._turn()
            except OSError as error:
                log.warning("the scrub cannot go on now; tried again later", error=str(error))
                worked = False

    def as_json(self) -> dict[str, Any]:
        pace = self._pace()
        return {
            "every_seconds": None if pace.every_s == math.inf else pace.every_s,
            "checked_bytes": self.checked_bytes,
            "found_bad": self.found_bad,
        }

    async def _turn(self) -> bool:
        """One batch of what is most due; False if there is nothing to do now."""
        pace = self._pace()
        if pace.every_s == math.inf:
            return False
        if self._walked_at is None or self._monotonic() - self._walked_at >= LOOK_AGAIN_S:
            await self._walk(pace)
        return await self._check_oldest(pace)

    async def _walk(self, pace: Pace) -> None:
        """Check everything stored that has no seal."""
        self._walked_at = self._monotonic()
        found: list[Digest] = []
        async for stored in self._store.list():
            found.append(stored.digest)
            if len(found) == BATCH:
                await self._check_unsealed(found, pace)
                found = []
        await self._check_unsealed(found, pace)
        if pace.is_too_slow(total := await self._seals.total_bytes()):
            log.warning("a scrub round takes longer than cache.scrub.every at this bandwidth", bytes=total)

    async def _check_unsealed(self, digests: Sequence[Digest], pace: Pace) -> None:
        unsealed = await self._seals.unsealed(digests)
        for digest in unsealed:
            await self._check(digest, pace.max_bytes_per_s)
        if unsealed:
            await self._seals.sync()

    async def _check_oldest(self, pace: Pace) -> bool:
        total, worked = await self._seals.total_bytes(), False
        for due in await self._seals.oldest(BATCH):
            rate = pace.rate_for(due, total, self._clock())
            if rate is None:
                break
            if await self._check(due.digest, rate) is Verdict.UNREADABLE:
                # It would be the oldest for ever, tried again at once. Without a seal the next walk comes back to it.
                await self._seals.drop(due.digest)
                worked = False
                break
            worked = True
        await self._seals.sync()
        return worked

    async def _check(self, digest: Digest, rate: float) -> Verdict:
        self._rate = rate
        verdict = await self._store.check(digest, self._paced)
        if verdict is Verdict.BAD:
            self.found_bad += 1
            why_not = await self._mend(digest)
            if why_not is not None:
                log.warning("bad content could not be fetched again yet", digest=str(digest), why=why_not)
        return verdict

    async def _paced(self, read: int) -> None:
        self.checked_bytes += read
        await self._sleep(min(IDLE_S, read / self._rate))
