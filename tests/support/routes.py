"""An address of this machine's own that can become a black hole, as a node's routing sees a member that is gone.

Needs root and `ip`. Measured with containerd 1.6.20, which has no `dial_timeout` (2.1 has) and no deadline for headers:
a black-hole route fails its dial at once; a SYN that nobody answers (a full backlog, a dropping firewall) costs it 30 s
for each of a pull's three stages; a listener that accepts and is silent holds it for ever, and no hosts.toml changes
that.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.support.process import run


@dataclass(slots=True)
class LoneAddress:
    """`text` is the address; `is_there` until it was made a black hole."""

    text: str
    is_there: bool = False

    async def appear(self) -> None:
        (await run("ip", "address", "add", f"{self.text}/32", "dev", "lo")).check()
        self.is_there = True

    async def become_a_black_hole(self) -> None:
        """From now on whoever dials it reaches nobody; what listens there goes on listening."""
        (await run("ip", "address", "delete", f"{self.text}/32", "dev", "lo")).check()
        self.is_there = False
        (await run("ip", "route", "replace", "blackhole", f"{self.text}/32")).check()

    async def remove(self) -> None:
        """No trace of it is left."""
        if self.is_there:
            (await run("ip", "address", "delete", f"{self.text}/32", "dev", "lo")).check()
        else:
            await run("ip", "route", "delete", "blackhole", f"{self.text}/32")


@asynccontextmanager
async def lone_address() -> AsyncIterator[LoneAddress]:
    """One address out of 198.18.0.0/15, which RFC 2544 keeps for tests; no other test process has it."""
    number = os.getpid() % (1 << 17)
    address = LoneAddress(f"198.{18 + (number >> 16)}.{number >> 8 & 255}.{number & 255}")
    await address.appear()
    try:
        yield address
    finally:
        await address.remove()
