"""What upstreams said they do not have: told again for the rule's `missing_for`, without asking.

Never noted nor told while an endpoint of the upstream is left alone: what another one lacks, or said before, may be
there. Invariant: only a 404 comes here; a denial, a limit or an outage is never remembered as missing (threat V10).
"""

from typing import Final

from cachetools import LRUCache

from proxy.errors import BlobUnknown, NotHere
from proxy.events import NotStored
from proxy.ground import Ground
from proxy.oci import Digest
from proxy.remembered import Remembered
from proxy.rules import Route, Source

REMEMBERED: Final = 10_000
BLOB_UNKNOWN: Final = BlobUnknown("").reason


class Missing:
    """Missing tags, manifests and blobs; `kind` is the error that says so."""

    def __init__(self, ground: Ground) -> None:
        self._upstreams = ground.upstreams
        self._awaited: LRUCache[tuple[Source, Digest], Route] = LRUCache(REMEMBERED)
        ground.events.listen(NotStored, self._hear)
        self._facts: Remembered[tuple[type[NotHere], Source, str | Digest], bool] = Remembered(REMEMBERED, ground.clock)

    def note(self, kind: type[NotHere], route: Route, what: str | Digest) -> None:
        """The upstream has just said that it lacks this."""
        if not self._upstreams.in_trouble(route.source):
            self._facts.note((kind, route.source, what), True, route.tags.missing_for_s)

    def refuse(self, kind: type[NotHere], route: Route, what: str | Digest) -> None:
        """Raise `kind` if it was said a moment ago."""
        if self._facts.get((kind, route.source, what)) and not self._upstreams.in_trouble(route.source):
            raise kind(f"{route.source.upstream} has no {what} in {route.source.repository}")

    def may_follow(self, route: Route, digest: Digest) -> None:
        """A transfer of this blob begins, or is joined, by this route: should it find none, that is to be noted."""
        self._awaited[route.source, digest] = route

    def _hear(self, event: NotStored) -> None:
        if event.source is None or event.digest is None:
            return
        route = self._awaited.pop((event.source, event.digest), None)
        if route is not None and event.reason == BLOB_UNKNOWN:
            self.note(BlobUnknown, route, event.digest)

    def forget(self, kind: type[NotHere], route: Route, what: str | Digest) -> None:
        self._facts.forget((kind, route.source, what))
