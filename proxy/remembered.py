"""What holds for some seconds: so many facts and no more.

Invariant: a clock that goes back makes it forget, it never prolongs: an hour back must not make a 404 last an hour.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import LRUCache

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Remembered(Generic[Key, Value]):
    """At most `most` facts, the least recently asked for go first. `clock` tells seconds."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._facts: LRUCache[Key, tuple[Value, float, float]] = LRUCache(most)
        self._clock = clock

    def note(self, key: Key, value: Value, seconds: float) -> None:
        self._facts[key] = (value, self._clock(), seconds)

    def get(self, key: Key) -> Value | None:
        """The fact, None once its seconds are over."""
        fact = self._facts.get(key)
        if fact is None:
            return None
        value, noted_at, seconds = fact
        if 0 <= self._clock() - noted_at < seconds:
            return value
        del self._facts[key]
        return None

    def forget(self, key: Key) -> None:
        self._facts.pop(key, None)
