"""Readers of what cannot be kept, and the reasons that are told."""

from proxy.events import NotStored
from tests.support.proxy import Proxy
from tests.support.site import settled

REPOSITORY = "team/app"


async def readers(proxy: Proxy, count: int) -> None:
    """Wait until so many clients read running transfers."""
    while proxy.rooms.downloads.readers < count:
        await settled()


def reasons(proxy: Proxy) -> set[str]:
    return {event.reason for event in proxy.heard if isinstance(event, NotStored)}
