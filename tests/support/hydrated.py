"""How the hydration of an image went."""

import asyncio

from proxy.events import HydrationEnded
from tests.support.proxy import Proxy

APP = "team/app"


async def hydrated(proxy: Proxy, count: int = 1) -> list[HydrationEnded]:
    """Wait until `count` hydrations have ended, and nothing runs any more."""
    ended = asyncio.Event()
    found: list[HydrationEnded] = [event for event in proxy.heard if isinstance(event, HydrationEnded)]

    def hear(event: HydrationEnded) -> None:
        found.append(event)
        if len(found) >= count:
            ended.set()

    proxy.rooms.events.listen(HydrationEnded, hear)
    if len(found) < count:
        await ended.wait()
    await proxy.quiet()
    return found
