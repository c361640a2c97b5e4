"""How long held content outlives the refusal of its credential: `credential_grace`, loudly, and no longer.

A credential that its token realm refuses was changed, or taken away. Held content under it is served on for the time of
grace, so that a mistake at night stops nobody; then it follows `on_denied`. Since when is durable: a restart begins no
new grace. In between only monotonic time counts, so that no clock that jumps ends or prolongs it.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final

from proxy.errors import BlobUnknown, CisternError, NotHere, UpstreamDenied, UpstreamNotFound
from proxy.events import CredentialJudged, NotStored
from proxy.freshness import Verdict
from proxy.ground import Ground
from proxy.log import logger
from proxy.oci import Digest
from proxy.rules import Place, Route
from proxy.upstream.base import Upstreams

log = logger("grace")
WAITING_MAX: Final = 1000


class Grace:
    """The refused credentials, by the scope of the places they open (`UPSTREAM|CREDENTIALS`)."""

    def __init__(self, ground: Ground, grace_s: Callable[[], float]) -> None:
        self._records = ground.records
        self._events = ground.events
        self._clock = ground.clock
        self._monotonic = ground.monotonic
        self._grace_s = grace_s
        self._since: dict[str, float] = {}  # monotonic seconds
        self.on_change: Callable[[], object] | None = None
        self.changes = 0  # grows with each refusal and each acceptance
        self._judged: asyncio.Queue[CredentialJudged] = asyncio.Queue(WAITING_MAX)
        ground.events.listen(CredentialJudged, self._hear)

    async def begin(self) -> None:
        """Take up what an earlier process knew. A stamp from the future says that a clock moved: it counts as now."""
        now = self._clock()
        for scope, since in (await self._records.refusals()).items():
            self._since.setdefault(scope, self._monotonic() - max(0.0, now - since))

    def _hear(self, event: CredentialJudged) -> None:
        scope = event.scope
        if event.accepted == (scope not in self._since):
            return
        self.changes += 1
        if event.accepted:
            del self._since[scope]
            log.info("credentials are accepted again", credentials=event.credentials, upstream=event.upstream)
        else:
            self._since[scope] = self._monotonic()
            log.error(
                "credentials are refused",
                credentials=event.credentials,
                upstream=event.upstream,
                held_content_served_for_s=round(self._grace_s()) if math.isfinite(self._grace_s()) else "ever",
            )
        if self.on_change is not None:
            self.on_change()
        if not self._judged.full():  # a durable stamp late is better than a request that waits for it
            self._judged.put_nowait(event)

    async def keep(self) -> None:
        """Make what was heard durable, until cancelled. A disk that refuses is told; memory holds it meanwhile."""
        while True:
            event = await self._judged.get()
            try:
                since = self._since.get(event.scope)
                if since is None:
                    await self._records.drop_refusal(event.scope)
                else:
                    await self._records.save_refusal(event.scope, self._clock() - (self._monotonic() - since))
            except OSError as error:
                self._events.publish(NotStored(Place(event.scope, ""), None, "disk", str(error)))
            finally:
                self._judged.task_done()

    async def kept(self) -> None:
        """Wait until all that was heard is durable."""
        await self._judged.join()

    def is_running(self, route: Route) -> bool:
        """Whether the credential of this route is refused: what is served for it now may be denied later."""
        return route.place.scope in self._since

    def lasts(self, route: Route) -> bool:
        """Whether held content of this route is still within its grace: also where nothing was ever refused."""
        since = self._since.get(route.place.scope)
        return since is None or self._monotonic() - since < self._grace_s()

    def refuses(self, route: Route) -> bool:
        """Whether held content needs the upstream's word: its credential was refused longer ago than the grace."""
        return not self.lasts(route) and route.tags.on_denied is Verdict.DENY


async def ask_leave(upstreams: Upstreams, route: Route, digest: Digest, unknown: type[NotHere]) -> None:
    """For held content whose credential was refused longer ago than its grace: ask whether it still is.

    Raises UpstreamDenied, refused or not: a 403 is a word (invariant I9), and so is a 404, by which registries hide
    what they deny: `unknown`, unless `on_not_found` serves on. Other trouble is no reason to deny.
    """
    try:
        ask = upstreams.head_blob if unknown is BlobUnknown else upstreams.head_manifest
        await ask(route.source, digest)
    except UpstreamDenied:
        raise
    except UpstreamNotFound as error:
        if route.tags.on_not_found is Verdict.DENY:
            raise unknown(f"{route.source.upstream} does not show this in {route.source.repository}") from error
    except CisternError as error:
        log.info("held content is served past its grace", place=str(route.place), error=str(error))
