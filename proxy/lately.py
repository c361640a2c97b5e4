"""What was asked for lately: a bounded map whose look-up costs as little as a dictionary's.

Two generations: what is asked for moves to the young one; when that is full it becomes the old one, and what nobody
asked for in a whole generation is gone. A least-recently-used order would cost a write for every look.
"""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Lately(Generic[Key, Value]):
    """Values that weigh at most `most` per generation; two are kept. One heavier than that is not taken."""

    __slots__ = ("_most", "_old", "_weigh", "_weight", "_young")

    def __init__(self, most: int, weigh: Callable[[Value], int] = lambda _value: 1) -> None:
        self._most = most
        self._weigh = weigh
        self._weight = 0  # of the young generation; a value put again weighs twice, which only turns it over sooner
        self._young: dict[Key, Value] = {}
        self._old: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        found = self._young.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: Key, value: Value) -> None:
        weight = self._weigh(value)
        if weight > self._most:
            return
        if self._weight + weight > self._most:
            self._old, self._young, self._weight = self._young, {}, 0
        self._young[key] = value
        self._weight += weight

    def forget(self, key: Key) -> None:
        self._young.pop(key, None)
        self._old.pop(key, None)

    def clear(self) -> None:
        self._old, self._young, self._weight = {}, {}, 0

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())
