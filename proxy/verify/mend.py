"""Makes whole again what went bad: from memory, or fetched through any place that holds it and that a rule still leads
to, as a client would.
"""

from collections.abc import Callable

from proxy.errors import CisternError
from proxy.ground import Ground
from proxy.log import logger
from proxy.manifests import Manifests
from proxy.oci import Digest
from proxy.pull import Pull
from proxy.rules import Route, Rules
from proxy.store.base import Link

log = logger("verify")


class Mend:
    """Call it with a digest."""

    def __init__(self, ground: Ground, pull: Pull, manifests: Manifests, rules: Callable[[], Rules]) -> None:
        self._records = ground.records
        self._store = ground.blobs
        self._pull = pull
        self._manifests = manifests
        self._rules = rules

    async def __call__(self, digest: Digest) -> str | None:
        """Keep or fetch it again; None if it is here again, else why not."""
        if await self._manifests.put_again(digest) and await self._store.stat(digest) is not None:
            log.info("a bad manifest was kept again from memory", digest=str(digest))
            return None
        why_not = "no image here names it any more"
        for place in await self._records.places():
            link = await self._records.link(place, digest)
            if link is None:
                continue
            why_not = f"no rule leads to {place} any more"
            for route in self._rules().leading_to(place):
                try:
                    await self._fetch(route, link)
                except (CisternError, OSError) as error:
                    why_not = str(error)
                    continue
                if await self._store.stat(digest) is not None:
                    log.info("bad content was fetched again", digest=str(digest), place=str(place))
                    return None
                why_not = "it was fetched, and the store did not keep it"
        return why_not

    async def _fetch(self, route: Route, link: Link) -> None:
        if link.media_type is None:
            await self._pull.fill(route, link.digest, link.size or None)
        else:
            self._manifests.forget(link.digest)
            await self._manifests.fetch(route.source, link.digest)
