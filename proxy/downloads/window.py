"""How many received bytes a transfer may hold in memory until they are written and hashed: the receiver waits for room.

This bounds memory, and what a kill loses.
"""

from typing import Final

from proxy.downloads.bell import Bell
from proxy.upstream.base import Buffer

WINDOW: Final = 4 << 20  # a batch being received, one being written and one being hashed, of a MiB or so each


class Window:
    """Counts the bytes held by one transfer. Whoever is done with a buffer frees it, once."""

    __slots__ = ("_bell", "held")

    def __init__(self) -> None:
        self.held = 0
        self._bell = Bell()

    def hold(self, buffer: Buffer) -> None:
        self.held += len(buffer)

    def free(self, buffer: Buffer) -> None:
        self.held -= len(buffer)
        self._bell.ring()

    async def room(self) -> None:
        """Wait until another buffer may be held."""
        while self.held >= WINDOW:
            await self._bell.wait()
