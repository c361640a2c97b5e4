"""How much may stand under the cache directory, and how much more may be promised. Pure.

Two limits hold at once: `max_size`, the hard cap on what the directory takes, and `keep_free`, what the file system
keeps for others (a node's kubelet begins to evict pods at 15 % free disk for images, 10 % for the node).
"""

from dataclasses import dataclass
from typing import Final

from proxy.config import Share
from proxy.store.census import Room

SPARE_MAX: Final = 16 << 20  # bytes kept for manifests and databases, which grow between two looks
SPARE_SHARE: Final = 16  # of a small cap, one part in so many
SLACK_MAX: Final = 4 << 30  # bytes that eviction keeps free ahead of the next pull
SLACK_SHARE: Final = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """The two limits as the config gives them."""

    max_size: Share
    keep_free: Share

    def cap(self, room: Room) -> int:
        """Bytes that the directory may take: never more than the disk has."""
        return min(self.max_size.of(room.total), room.total)

    def spare(self, room: Room) -> int:
        """Bytes that blobs leave for manifests, records and index."""
        return min(SPARE_MAX, self.cap(room) // SPARE_SHARE)

    def slack(self, room: Room) -> int:
        """Bytes that are made free before somebody needs them."""
        return min(SLACK_MAX, self.cap(room) // SLACK_SHARE)

    def left(self, room: Room, committed: int, taken_at_look: int) -> int:
        """Bytes that may still be promised; negative when the disk has filled up by others, or the limit was lowered.

        `room` is how the file system was when the directory took `taken_at_look`: what we took since then, and what
        we promised, comes off what was free.
        """
        by_cap = self.cap(room) - committed
        by_free = room.free - self.keep_free.of(room.total) - (committed - taken_at_look)
        return min(by_cap, by_free)
