"""When content was last used: heard from what clients fetch, noted in the index. Knows no HTTP and no images.

A listener must not block, so it only remembers; `listen` notes. What is lost in a crash is a time, never content.
"""

import asyncio
from typing import Final

from proxy.events import BlobAsked, ManifestFetched
from proxy.ground import Ground
from proxy.oci import Digest

HEARD_MAX: Final = 10_000


class Uses:
    """Start `listen` as a task."""

    def __init__(self, ground: Ground) -> None:
        self._index = ground.index
        self._clock = ground.clock
        self._heard: dict[Digest, float] = {}
        self._rung = asyncio.Event()
        ground.events.listen(ManifestFetched, self._hear)
        ground.events.listen(BlobAsked, self._hear)

    def _hear(self, event: ManifestFetched | BlobAsked) -> None:
        if len(self._heard) < HEARD_MAX or event.digest in self._heard:
            self._heard[event.digest] = self._clock()
            self._rung.set()

    async def listen(self) -> None:
        """Note what was heard, until cancelled."""
        while True:
            await self._rung.wait()
            self._rung.clear()
            heard, self._heard = self._heard, {}
            for now in sorted(set(heard.values())):
                await self._index.touch([digest for digest, used in heard.items() if used == now], now)
