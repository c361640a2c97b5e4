"""S3-FIFO: which image goes next. Pure; knows keys, sizes and uses, nothing of what they are.

Yang, Zhang, Qiu, Yue, Rashmi: "FIFO queues are all you need for cache eviction", SOSP 2023. A new key enters a small
queue of a tenth of what is kept; used again before it reaches the end, it moves to the main queue, else it goes and
only its name is remembered. A name that comes back while it is remembered enters the main queue at once. The main
queue passes over what was used since it was last looked at. So what is pulled once, by a crawler or a scan, only
passes through the small queue.

Here sizes count, not keys, and a use is a pull: two requests of one pull are one use (`proxy.uses`). The paper's
threshold of two uses is one here, since a second pull of an image is rarely chance.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

SMALL_SHARE: Final = 10  # the small queue is one part in so many of what is kept
USES_MAX: Final = 3  # two bits, as in the paper
GHOSTS_MIN: Final = 64


@dataclass(slots=True)
class Entry:
    """One key's place. `order` is when it entered its queue; `counted` the lifetime uses already credited."""

    size: int
    order: int
    is_main: bool = False
    uses: int = 0
    counted: int = 0


class S3Fifo(Generic[Key]):
    """The two queues and the remembered names. `changes` tells what a store of it has to write."""

    def __init__(self) -> None:
        self.entries: dict[Key, Entry] = {}
        self._changed: set[Key] = set()
        self._gone: set[Key] = set()
        # In order, the oldest first. A plain dict is slow at its front after many deletions there.
        self._small: OrderedDict[Key, None] = OrderedDict()
        self._main: OrderedDict[Key, None] = OrderedDict()
        self._ghosts: OrderedDict[Key, None] = OrderedDict()
        self._bytes = {False: 0, True: 0}  # by is_main
        self._orders = 0

    @classmethod
    def restored(cls, entries: Iterable[tuple[Key, Entry]]) -> "S3Fifo[Key]":
        """As it was when these were written."""
        policy: S3Fifo[Key] = cls()
        for key, entry in sorted(entries, key=lambda item: item[1].order):
            policy._place(key, entry)
            policy._orders = max(policy._orders, entry.order)
        return policy

    def __contains__(self, key: Key) -> bool:
        return key in self.entries

    def __iter__(self) -> Iterator[Key]:
        return iter(self.entries)

    @property
    def bytes(self) -> int:
        return self._bytes[False] + self._bytes[True]

    def changes(self) -> tuple[list[tuple[Key, Entry]], list[Key]]:
        """(what is new or different since the last call, what is gone)."""
        changed, gone = self._changed, self._gone
        self._changed, self._gone = set(), set()
        return [(key, self.entries[key]) for key in changed], list(gone)

    def insert(self, key: Key, size: int, counted: int = 0) -> None:
        """A new key; nothing if it is here."""
        if key not in self.entries:
            is_main = key in self._ghosts
            self._ghosts.pop(key, None)
            self._place(key, Entry(size, self._next(), is_main, counted=counted))

    def resize(self, key: Key, size: int) -> None:
        entry = self.entries[key]
        self._bytes[entry.is_main] += size - entry.size
        entry.size = size

    def use(self, key: Key) -> None:
        """It was used once more."""
        self.credit(key, self.entries[key].counted + 1)

    def credit(self, key: Key, counted: int) -> None:
        """It was used so many times in its life, as far as anybody counted."""
        entry = self.entries[key]
        if counted != entry.counted:
            entry.uses = min(USES_MAX, entry.uses + max(0, counted - entry.counted))
            entry.counted = counted
            self._changed.add(key)

    def remove(self, key: Key) -> None:
        """It is gone for another reason than eviction; its name is not remembered."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            del self._queue(entry.is_main)[key]
            self._bytes[entry.is_main] -= entry.size
            self._changed.discard(key)
            self._gone.add(key)

    def evict(self, may_go: Callable[[Key], bool] = lambda _key: True) -> Key | None:
        """The key that goes, gone already; None if none of the queue whose turn it is may.

        While the small queue holds more than its share, nothing of the main queue goes: what only passes through must
        not push out what is used again, even when none of it may go right now.
        """
        while self._bytes[False] * SMALL_SHARE >= self.bytes and self._small:
            found, promoted = self._from_small(may_go)
            if found is not None or not promoted:
                return found
        return self._from_main(may_go)

    def evict_any(self, may_go: Callable[[Key], bool]) -> Key | None:
        """The key that goes of those that may, whatever the queues' shares: the small queue first."""
        found, _ = self._from_small(may_go)
        return found if found is not None else self._from_main(may_go)

    def _from_small(self, may_go: Callable[[Key], bool]) -> tuple[Key | None, bool]:
        """(the victim, whether anything moved to the main queue on the way)."""
        used: list[Key] = []
        victim = None
        for key in self._small:
            if self.entries[key].uses:
                used.append(key)
            elif may_go(key):
                victim = key
                break
        for key in used:
            self._promote(key, self.entries[key])
        if victim is not None:
            self.remove(victim)
            self._remember(victim)
        return victim, bool(used)

    def _from_main(self, may_go: Callable[[Key], bool]) -> Key | None:
        while (key := next((key for key in self._main if may_go(key)), None)) is not None:
            entry = self.entries[key]
            if not entry.uses:
                self.remove(key)
                return key
            entry.uses -= 1  # each round takes one from each that may go: it ends
            self._main.move_to_end(key)
            entry.order = self._next()
            self._changed.add(key)
        return None

    def _promote(self, key: Key, entry: Entry) -> None:
        del self._small[key]
        self._bytes[False] -= entry.size
        entry.is_main, entry.uses, entry.order = True, 0, self._next()
        self._place(key, entry)

    def _place(self, key: Key, entry: Entry) -> None:
        self.entries[key] = entry
        self._queue(entry.is_main)[key] = None
        self._bytes[entry.is_main] += entry.size
        self._changed.add(key)
        self._gone.discard(key)

    def _remember(self, key: Key) -> None:
        self._ghosts[key] = None
        while len(self._ghosts) > max(GHOSTS_MIN, len(self._main)):
            self._ghosts.popitem(last=False)

    def _queue(self, is_main: bool) -> OrderedDict[Key, None]:
        return self._main if is_main else self._small

    def _next(self) -> int:
        self._orders += 1
        return self._orders
