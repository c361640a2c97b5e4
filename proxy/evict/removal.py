"""Deletes what was chosen to go, in an order that leaves every image whole or refused at its manifest.

Tags go first, so that nobody resolves to what is half gone; then the manifests, so that no image is served whose blobs
are missing; then blobs, and their links last. An eviction that a crash or a disk cuts short leaves content that no
image reaches: it takes up room until the next round, which begins with it.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from proxy.events import Evicted
from proxy.evict.graph import Dropped
from proxy.ground import Ground
from proxy.manifests import Manifests
from proxy.oci import Digest
from proxy.rules import Place


@dataclass(frozen=True, slots=True)
class EvictReport:
    """What went: tags, manifests, other blobs, bytes of content. All 0 but `tags` if another tag names the image."""

    tags: int = 0
    manifests: int = 0
    blobs: int = 0
    bytes: int = 0

    def __add__(self, other: "EvictReport") -> "EvictReport":
        return EvictReport(
            self.tags + other.tags,
            self.manifests + other.manifests,
            self.blobs + other.blobs,
            self.bytes + other.bytes,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Removal:
    """The deed. OSError: the disk refuses; what went by then is gone."""

    def __init__(self, ground: Ground, manifests: Manifests) -> None:
        self._manifests = manifests
        self._records = ground.records
        self._store = ground.blobs
        self._index = ground.index
        self._events = ground.events

    async def image(self, dropped: Dropped, is_spared: Callable[[Digest], Awaitable[bool]]) -> EvictReport:
        """Drop an image; content that is spared by now stays, as content that no image reaches."""
        (place, digest), node = dropped.node.key, dropped.node
        for tag in node.tags:
            await self._records.drop_tag(place, tag)
        links = set(dropped.links)
        manifests = [found for found in dropped.content if found in node.manifests]
        report = EvictReport(tags=len(node.tags))
        await self._records.drop_links(place, sorted(links & node.manifests, key=str))
        stay: set[Digest] = set()
        try:
            for found in manifests:
                report += await self.content(found, is_manifest=True)
            for found in dropped.content:
                if found in node.manifests:
                    continue
                if await is_spared(found):
                    stay.add(found)
                    continue
                report += await self.content(found)
        finally:  # also of what went before the disk refused: its blocks are free once nobody has it open
            self._events.publish(Evicted(place, digest, node.reach, report.bytes))
        await self._records.drop_links(place, sorted(links - node.manifests - stay, key=str))
        gone = [found for found in node.manifests if found in links]
        await self._index.forget_manifests(place, gone)
        await self._end_hydrations(place, gone)
        return report

    async def loose(self, digest: Digest, places: Iterable[Place]) -> EvictReport:
        """Drop content that no image reaches, and what links it from these places."""
        report = EvictReport()
        try:
            report += await self.content(digest)
        finally:
            self._events.publish(Evicted(None, digest, frozenset((digest,)), report.bytes))
        for place in places:
            await self._records.drop_links(place, [digest])
        return report

    async def content(self, digest: Digest, *, is_manifest: bool = False) -> EvictReport:
        size = await self._store.stat(digest)
        await self._store.delete(digest)
        self._manifests.forget(digest)
        if size is None:
            return EvictReport()
        return EvictReport(manifests=int(is_manifest), blobs=int(not is_manifest), bytes=size)

    async def _end_hydrations(self, place: Place, digests: Collection[Digest]) -> None:
        """What waits in the queue must not bring the image back."""
        for job in await self._index.jobs("queued"):
            if job.place == place and job.manifest in digests:
                await self._index.save_job(replace(job, state="failed", error="its image was evicted"))
