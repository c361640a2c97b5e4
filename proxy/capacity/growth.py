"""How fast the cache grows, from what it took at earlier times, and when it will be full. Pure."""

from collections.abc import Sequence
from typing import Final

DAY_S: Final = 86_400.0
WINDOW_S: Final = 7 * DAY_S  # older sizes say little about tomorrow
SPAN_MIN_S: Final = 3600.0  # a growth over less is noise


def growth_per_day(sizes: Sequence[tuple[float, int]], now: float, used: int) -> float | None:
    """Bytes per day since the oldest of `sizes` (Unix seconds, bytes) in the window; None while there is none old
    enough. Negative when it shrinks.
    """
    known = [(at, size) for at, size in sizes if SPAN_MIN_S <= now - at <= WINDOW_S]
    if not known:
        return None
    at, size = min(known)
    return (used - size) / (now - at) * DAY_S


def days_to_full(left: int, per_day: float | None) -> float | None:
    """Days until `left` bytes are used; 0 if they are, None if it does not grow or nobody knows."""
    if left <= 0:
        return 0.0
    if per_day is None or per_day <= 0:
        return None
    return left / per_day
