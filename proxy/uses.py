"""When content was last used, and how often it was pulled: heard from what clients fetch, noted in the index.

Knows no HTTP and no images. A listener must not block, so it only remembers; `listen` notes. What is lost in a crash is
a time, never content. A pull asks for its manifests more than once, and many nodes pull one image at once: manifests
fetched again within ONE_PULL_S are the same use.
"""

import asyncio
from typing import Final

from cachetools import TTLCache

from proxy.events import BlobAsked, ManifestFetched
from proxy.ground import Ground
from proxy.oci import Digest

HEARD_MAX: Final = 10_000
ONE_PULL_S: Final = 300.0


class Uses:
    """Start `listen` as a task."""

    def __init__(self, ground: Ground) -> None:
        self._index = ground.index
        self._clock = ground.clock
        self._heard: dict[Digest, float] = {}
        self._pulls: list[Digest] = []
        self._counted: TTLCache[Digest, bool] = TTLCache(HEARD_MAX, ONE_PULL_S, timer=ground.clock)
        self._rung = asyncio.Event()
        self._rested = asyncio.Event()  # set while all that was heard is noted
        ground.events.listen(ManifestFetched, self._hear)
        ground.events.listen(BlobAsked, self._hear)

    def _hear(self, event: ManifestFetched | BlobAsked) -> None:
        if len(self._heard) < HEARD_MAX or event.digest in self._heard:
            self._heard[event.digest] = self._clock()
            self._rung.set()
        if isinstance(event, ManifestFetched) and event.digest not in self._counted and len(self._pulls) < HEARD_MAX:
            self._counted[event.digest] = True
            self._pulls.append(event.digest)

    async def noted(self) -> None:
        """Wait until all that was heard is noted."""
        while self._rung.is_set() or not self._rested.is_set():
            self._rested.clear()
            await self._rested.wait()

    async def listen(self) -> None:
        """Note what was heard, until cancelled."""
        while True:
            self._rested.set()
            await self._rung.wait()
            self._rested.clear()
            self._rung.clear()
            heard, self._heard = self._heard, {}
            pulls, self._pulls = self._pulls, []
            for now in sorted(set(heard.values())):
                await self._index.touch([digest for digest, used in heard.items() if used == now], now)
            await self._index.count_uses(pulls)
