"""How many pulls an upstream says are left (Docker Hub's `ratelimit-*` headers: protocol U20), and who may have them.

The headers may lie. What they can do is bounded: they hold background work back, never a client, and only as long as a
reading is believed. Pure, but for the table of the last readings.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache
from multidict import CIMultiDict, CIMultiDictProxy

BELIEVED_MAX_S: Final = 6 * 3600.0  # Docker Hub's own window
BELIEVED_MIN_S: Final = 60.0
READINGS_MAX: Final = 256
COUNT: Final = re.compile(r"\s*(\d{1,12})\s*(?:;\s*w=(\d{1,9}))?", re.ASCII)
SOURCE: Final = re.compile(r"[\x21-\x7e]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Quota:
    """One reading: `remaining` of `limit` pulls within `window_s`; `source` is whom the upstream counts (an address, or
    a user's id). `limit` is None if only the rest was told.
    """

    limit: int | None
    remaining: int
    window_s: float
    source: str | None


def read(headers: CIMultiDictProxy[str] | CIMultiDict[str]) -> Quota | None:
    """The quota told by an answer's headers; None if there is none, or none that can be read."""
    remaining = COUNT.match(headers.get("RateLimit-Remaining", ""))
    if remaining is None:
        return None
    limit = COUNT.match(headers.get("RateLimit-Limit", ""))
    most = int(limit[1]) if limit is not None and int(limit[1]) > 0 else None
    left = int(remaining[1])
    window = remaining[2] or (limit[2] if limit is not None else None)
    window_s = BELIEVED_MAX_S if window is None else min(max(float(window), BELIEVED_MIN_S), BELIEVED_MAX_S)
    source = headers.get("Docker-RateLimit-Source", "").strip()
    return Quota(
        most, left if most is None else min(left, most), window_s, source if SOURCE.fullmatch(source) else None
    )


@dataclass(frozen=True, slots=True)
class Reading:
    quota: Quota
    at: float


class Quotas:
    """The last reading of each credential set (None: anonymous) at one endpoint."""

    def __init__(self, *, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._readings: LRUCache[str | None, Reading] = LRUCache(READINGS_MAX)

    def hear(self, credentials: str | None, quota: Quota) -> None:
        self._readings[credentials] = Reading(quota, self._monotonic())

    def forget(self, credentials: str) -> None:
        """What was told of a credential set counts no longer."""
        self._readings.pop(credentials, None)

    def readings(self) -> dict[str | None, tuple[Quota, float]]:
        """Of each credential set the reading that is believed yet, and its age in seconds."""
        now = self._monotonic()
        return {
            credentials: (reading.quota, now - reading.at)
            for credentials, reading in self._readings.items()
            if now - reading.at < reading.quota.window_s
        }

    def held_back_s(self, credentials: str | None, reserve: float) -> float:
        """How long background work must wait at most: 0 while more than the share `reserve` is left, or nothing is
        known.
        """
        believed = self.readings().get(credentials)
        if believed is None:
            return 0.0
        quota, age_s = believed
        if quota.remaining > (quota.limit or 0) * reserve:
            return 0.0
        return quota.window_s - age_s
