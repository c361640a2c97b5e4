"""The pull-through decision: the one room that knows store, downloads and upstream.

A digest is served under a place only once that place is known to hold it: by a link, or by one HEAD upstream with the
place's own credentials. So one upstream's private blob cannot be read through another's path (threats V21, V24).
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from proxy.downloads.room import Downloads
from proxy.downloads.transfer import Origin
from proxy.errors import (
    BlobUnknown,
    Denied,
    ManifestUnknown,
    UpstreamLied,
    UpstreamNotFound,
    UpstreamUnavailable,
)
from proxy.events import BlobAsked, ManifestFetched, NotStored
from proxy.flights import Flights
from proxy.grace import Grace, ask_leave
from proxy.ground import Ground
from proxy.log import logger
from proxy.manifests import Manifests
from proxy.missing import Missing
from proxy.oci import Descriptor, Digest
from proxy.outcome import COLLAPSED, HEAD_MISS, HIT, MISS, told
from proxy.pulled import BlobAnswer, ManifestAnswer, Standing
from proxy.rules import Place, Route, Source
from proxy.store.base import Link, OpenBlob
from proxy.tags import Resolved, Tags

log = logger("pull")


class Pull:
    """What the edge asks: manifests and blobs, by route."""

    def __init__(
        self,
        ground: Ground,
        downloads: Downloads,
        manifests: Manifests,
        tags: Tags,
        grace: Grace,
        *,
        is_blocked: Callable[[Digest], bool],
    ) -> None:
        self._store = ground.blobs
        self._records = ground.records
        self._index = ground.index
        self._upstreams = ground.upstreams
        self._downloads = downloads
        self._manifests = manifests
        self._tags = tags
        self._events = ground.events
        self._is_blocked = is_blocked
        self._clock = ground.clock
        self._proofs: Flights[tuple[Source, Digest], int | None] = Flights(ground.tasks, "prove blob")
        self._heads: Flights[tuple[Source, Digest], Descriptor | None] = Flights(ground.tasks, "head manifest")
        self._missing = Missing(ground)
        self._grace = grace

    async def manifest(self, route: Route, target: str | Digest, *, want_body: bool) -> ManifestAnswer:
        """A manifest by tag or digest, with its body if `want_body`.

        Raises Denied (blocked), ManifestUnknown and what the upstream port raises.
        """
        changes = self._changes()
        if isinstance(target, Digest):
            standing: Standing | None = Standing(changes)
            answer = await self._manifest_by_digest(route, target, want_body)
        else:
            resolved = await self._tags.resolve(route, target, want_body=want_body)
            answer = await self._manifest_of(route, resolved, want_body)
            checked_at = resolved.checked_at
            standing = None if checked_at is None else Standing(changes, checked_at, route.tags.fresh_for_s)
        if want_body:
            self._events.publish(ManifestFetched(route, answer.descriptor.digest))
        stands = answer.outcome is HIT and not self._grace.is_running(route)
        return replace(answer, standing=standing) if stands else answer

    def repeats(self, standing: Standing) -> bool:
        """Whether what was answered then is the answer now."""
        if standing.changes != self._changes():
            return False
        checked_at = standing.checked_at
        return checked_at is None or 0 <= self._clock() - checked_at < standing.fresh_for_s

    def fetched(self, route: Route, digest: Digest) -> None:
        """A client fetched a manifest that was answered without asking here."""
        self._events.publish(ManifestFetched(route, digest))

    def _changes(self) -> int:
        return self._records.changes + self._manifests.forgotten + self._grace.changes

    async def _manifest_of(self, route: Route, resolved: Resolved, want_body: bool) -> ManifestAnswer:
        self._refuse_blocked(resolved.descriptor.digest)
        if not want_body:
            return ManifestAnswer(
                resolved.descriptor, None, HEAD_MISS if resolved.outcome == MISS else resolved.outcome
            )
        found = await self._manifest_by_digest(route, resolved.descriptor.digest, True)
        # A body fetched just now for a tag that was fresh: the tag was a hit, the manifest was not.
        outcome = found.outcome if resolved.outcome == HIT else resolved.outcome
        return ManifestAnswer(found.descriptor, found.body, outcome)

    async def _manifest_by_digest(self, route: Route, digest: Digest, want_body: bool) -> ManifestAnswer:
        self._refuse_blocked(digest)
        held = await self._manifests.held(route.place, digest)
        if held is not None:
            if self._grace.refuses(route):
                await ask_leave(self._upstreams, route, digest, ManifestUnknown)
            return ManifestAnswer(held.descriptor, held.body if want_body else None, HIT)
        self._missing.refuse(ManifestUnknown, route, digest)
        try:
            if not want_body:
                head = self._heads.fly((route.source, digest), lambda: self._head_manifest(route, digest))
                if (descriptor := await head) is not None:
                    return ManifestAnswer(descriptor, None, HEAD_MISS)
            fetched = await self._manifests.fetch(route.source, digest)
        except (ManifestUnknown, UpstreamNotFound) as cause:
            self._missing.note(ManifestUnknown, route, digest)
            raise ManifestUnknown(f"{route.source.upstream} has no manifest {digest} in {route.place}") from cause
        return ManifestAnswer(fetched.descriptor, fetched.body if want_body else None, told(fetched.unkept))

    async def _head_manifest(self, route: Route, digest: Digest) -> Descriptor | None:
        """What a HEAD upstream tells; None when it tells too little, so that a GET has to show it."""
        head = await self._upstreams.head_manifest(route.source, digest)
        if head.media_type is None or not head.size or head.digest not in (None, digest):
            return None
        return Descriptor(head.media_type, digest, head.size)

    async def blob(self, route: Route, digest: Digest, *, want_body: bool) -> BlobAnswer:
        """A blob, open for reading (the caller closes the answer), or with `want_body` false its size.

        Raises Denied (blocked), BlobUnknown and what the upstream port raises; a reader raises when it is opened.
        """
        self._refuse_blocked(digest)
        changes = self._changes()
        if want_body:
            self._events.publish(BlobAsked(route, digest))
        link = recalled = self._records.recall_link(route.place, digest)
        told_size, alone = None, self._upstreams.left_alone(route.source)
        if recalled is None and alone is not None:
            link = await self._records.link(route.place, digest)  # the one look that a refusal needs
        elif recalled is None:
            link, stored, told_size = await self._look(route.place, digest)
            if link is None and stored is not None and not self._fetches(route.source, digest):
                await self._prove(route, digest)
                link = await self._records.link(route.place, digest)
        if link is not None and self._grace.refuses(route):
            await ask_leave(self._upstreams, route, digest, BlobUnknown)
        held = await self._read(route.place, digest) if link is not None else None
        if held is not None and link is not None:
            stands = None if self._grace.is_running(route) else Standing(changes)
            answer = await self._answer_held(held, want_body, link.size, stands)
            if answer is not None:
                return answer
        if not want_body:
            return BlobAnswer(HEAD_MISS, size=await self._size(route, digest))
        self._missing.refuse(BlobUnknown, route, digest)
        self._refuse_cold(digest, alone)
        if recalled is not None:
            told_size = await self._index.size_of(route.place, digest)
        return await self._join(route, digest, Origin(route.source, told_size))

    def _refuse_cold(self, digest: Digest, alone: UpstreamUnavailable | None) -> None:
        """Begin nothing while the upstream is left alone, and join nobody who has not been told of it yet."""
        running = self._downloads.find(digest)
        if alone is not None and (running is None or not running.opened):
            raise alone

    async def _look(self, place: Place, digest: Digest) -> tuple[Link | None, int | None, int | None]:
        """What the disk says of a blob: the place's link, the stored size, and the size that a manifest gives.

        Three threads are asked side by side: a cold blob's first byte waits for the slowest, not for one after another.
        """
        return await asyncio.gather(
            self._records.link(place, digest), self._stored_size(digest), self._index.size_of(place, digest)
        )

    async def _join(self, route: Route, digest: Digest, origin: Origin) -> BlobAnswer:
        """Join a running transfer, proven first if another place started it; or start one."""
        if self._downloads.find(digest) is not None and not self._fetches(route.source, digest):
            await self._prove(route, digest)
        # No await between this look and the entry.
        self._missing.may_follow(route, digest)
        outcome = COLLAPSED if self._downloads.find(digest) is not None else MISS
        return BlobAnswer(outcome, reader=self._downloads.join(digest, origin))

    def _fetches(self, source: Source, digest: Digest) -> bool:
        """Whether a running transfer has this very source among its origins: its readers need no other proof.

        An origin that turns out not to hold the blob takes its own readers with it (`Transfer.dismiss`).
        """
        running = self._downloads.find(digest)
        return running is not None and any(known.source == source for known in running.origins)

    async def fill(self, route: Route, digest: Digest, size: int | None) -> None:
        """Make a blob present without a client: the same road, waited for to its end. Raises as `blob` does."""
        self._refuse_blocked(digest)
        if await self.holds(route.place, digest):
            return
        if not self._fetches(route.source, digest) and await self._somebody_has(digest):
            await self._prove(route, digest)
            if await self._somebody_has(digest):
                return
        if self._downloads.find(digest) is not None and not self._fetches(route.source, digest):
            await self._prove(route, digest)
        await self._downloads.fill(digest, Origin(route.source, size))

    async def size_to_send(self, route: Route, digest: Digest) -> int | None:
        """As `known_size`, of a blob that may be served, and by what a manifest says of it first, which memory knows.
        Raises Denied (blocked).
        """
        self._refuse_blocked(digest)
        told = await self._index.size_of(route.place, digest)
        return await self.known_size(route, digest) if told is None else told

    async def known_size(self, route: Route, digest: Digest) -> int | None:
        """A blob's size as far as it is known here: nobody is asked for it."""
        running = self._downloads.find(digest)
        if running is not None and self._fetches(route.source, digest) and running.size is not None:
            return running.size
        link = await self._records.link(route.place, digest)
        if link is not None and (stored := await self._stored_size(digest)) is not None:
            return stored
        return await self._index.size_of(route.place, digest)

    async def holds(self, place: Place, digest: Digest) -> bool:
        """Whether a place holds a digest whose bytes are here."""
        return await self._records.link(place, digest) is not None and await self._somebody_has(digest)

    async def _somebody_has(self, digest: Digest) -> bool:
        return await self._stored_size(digest) is not None

    async def _stored_size(self, digest: Digest) -> int | None:
        try:
            return await self._store.stat(digest)
        except OSError:
            return None

    async def _read(self, place: Place, digest: Digest) -> OpenBlob | None:
        """The stored blob; a disk that cannot read it is told, and the upstream is asked instead (invariant I3)."""
        try:
            return await self._store.read(digest)
        except OSError as error:
            self._events.publish(NotStored(place, digest, "unreadable", str(error)))
            return None

    async def _answer_held(
        self, held: OpenBlob, want_body: bool, noted: int, standing: Standing | None
    ) -> BlobAnswer | None:
        """What is here. Its size alone (`noted` when it was linked) is not told of a file that was cut: None then."""
        if want_body:
            return BlobAnswer(HIT, size=held.size, held=held, standing=standing)
        try:
            return BlobAnswer(HIT, size=held.size) if held.size == noted or await held.is_whole() else None
        finally:
            held.close()

    async def _size(self, route: Route, digest: Digest) -> int:
        """The size of a blob that is not here: asked upstream, which also proves it; else what a manifest says."""
        running = self._downloads.find(digest)
        if running is not None and running.size is not None and running.origins[0].source == route.source:
            return running.size
        size = await self._prove(route, digest)
        if size is None:
            size = await self._index.size_of(route.place, digest)
        if size is None:
            raise UpstreamLied(route.source.upstream, f"it tells no size for blob {digest}")
        return size

    async def _prove(self, route: Route, digest: Digest) -> int | None:
        """Show that the place holds a blob, by one HEAD for all who ask; links it. Returns its size if told."""
        self._missing.refuse(BlobUnknown, route, digest)
        return await self._proofs.fly((route.source, digest), lambda: self._ask_proof(route, digest))

    async def _ask_proof(self, route: Route, digest: Digest) -> int | None:
        try:
            size = await self._upstreams.head_blob(route.source, digest)
        except UpstreamNotFound as cause:
            self._missing.note(BlobUnknown, route, digest)
            raise BlobUnknown(f"{route.source.upstream} has no blob {digest} in {route.source.repository}") from cause
        stored = await self._stored_size(digest)
        try:
            await self._records.save_links([Link(route.place, digest, None, stored or size or 0)])
        except OSError as error:
            self._events.publish(NotStored(route.place, digest, "disk", str(error)))
        return size if size is not None else stored

    def _refuse_blocked(self, digest: Digest) -> None:
        if self._is_blocked(digest):
            raise Denied(f"{digest} is on the block list of this cache")
