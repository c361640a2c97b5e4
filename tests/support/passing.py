"""Readers of what cannot be kept, and the reasons that are told."""

from proxy.events import NotStored
from tests.support.proxy import Proxy
from tests.support.waiting import until

REPOSITORY = "team/app"


async def readers(proxy: Proxy, count: int) -> None:
    """Wait until so many clients read running transfers."""
    await until(lambda: proxy.rooms.downloads.readers >= count)


def reasons(proxy: Proxy) -> set[str]:
    return {event.reason for event in proxy.heard if isinstance(event, NotStored)}
