"""Who goes first on the way up: a transfer without readers goes behind those that have some.

It does not merely read slower: what an upstream has sent waits in the kernel, megabytes per connection, and takes the
clients' bandwidth all the same (measured: a client beside hydration took 1.4 times as long). So it hangs up, and asks
for the rest by Range when it is quiet; on a cache that never is, it gets a slice of SLICE_S every PATIENCE_S. What was
on its way is sent again then, so no transfer without readers begins in the short pauses of a client's own pull.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from proxy.downloads.bell import Bell
from proxy.downloads.transfer import Transfer
from proxy.oci import Digest

# How long no client may come or go before a transfer without readers asks: pulls come blob after blob, and skopeo rests
# between config and layers (measured: with less, layers that it was about to ask for were begun, left and begun again).
QUIET_S: Final = 0.5
PATIENCE_S: Final = 10.0
SLICE_S: Final = 0.4


class Turns:
    """Judges over the table of running transfers; `calm` rings when a reader comes or goes, or a transfer ends."""

    def __init__(self, running: Mapping[Digest, Transfer], calm: Bell, monotonic: Callable[[], float]) -> None:
        self._running = running
        self._calm = calm
        self._monotonic = monotonic

    def must_yield(self, transfer: Transfer) -> bool:
        """Whether a transfer should hang up now."""
        return self._is_behind(transfer) and self._monotonic() >= transfer.slice_ends

    async def turn(self, transfer: Transfer) -> None:
        """Wait until a transfer may ask its upstream: at once if it has readers, else when it is quiet."""
        if transfer.readers:
            return
        try:
            async with asyncio.timeout(PATIENCE_S):
                while self._is_behind(transfer) or not await self._stays_quiet(transfer):
                    if self._is_behind(transfer):
                        await self._calm.wait()
        except TimeoutError:
            transfer.slice_ends = self._monotonic() + SLICE_S

    async def _stays_quiet(self, transfer: Transfer) -> bool:
        """Whether the transfer has a reader now, or nothing rings for QUIET_S."""
        if transfer.readers:
            return True
        try:
            async with asyncio.timeout(QUIET_S):
                await self._calm.wait()
        except TimeoutError:
            return True
        return False

    def _is_behind(self, transfer: Transfer) -> bool:
        return not transfer.readers and any(
            other.readers and not other.settled for other in self._running.values() if other is not transfer
        )
