"""Drops an image by its reference: its tag, its manifests, and the content that no other image uses.

What another image names stays, in whichever place that image is, and so does what is being read: an open file outlives
its name. Invariants: a tag goes first, so that nobody resolves to what is half gone; links go last, so that an eviction
cut short can be asked for again.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from proxy.errors import Denied, ManifestUnknown
from proxy.ground import Ground
from proxy.holdings import HeldImage, Holdings, plain_name
from proxy.log import logger
from proxy.manifests import Manifests
from proxy.oci import Digest
from proxy.reference import LATEST, parse
from proxy.rules import Place, Route, Rules

log = logger("evict")


@dataclass(frozen=True, slots=True)
class EvictReport:
    """What went: tags, manifests, other blobs, and bytes on disk. All 0 but `tags` if another tag names the image."""

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


class Evict:
    """Evictions, one at a time: two at once would each spare what the other one's image shares with theirs."""

    def __init__(self, ground: Ground, holdings: Holdings, manifests: Manifests, rules: Callable[[], Rules]) -> None:
        self._holdings = holdings
        self._manifests = manifests
        self._rules = rules
        self._records = ground.records
        self._store = ground.blobs
        self._index = ground.index
        self._turn = asyncio.Lock()

    async def named(self, reference: str) -> EvictReport:
        """Evict what `reference` means to a client, or what of that name is still here though no pull leads there.

        Raises NameInvalid, TagInvalid, DigestInvalid, NameUnknown; and as `evict`.
        """
        named = parse(reference, default_tag=None)
        target = LATEST if named.target is None else named.target
        report, missing = EvictReport(), None
        for place in await self._holdings.places_named(self._rules(), named):
            try:
                report += await self._evict(place, target)
            except ManifestUnknown as error:
                missing = error
        if missing is not None and report == EvictReport():
            raise missing
        return report

    async def evict(self, route: Route, target: str | Digest) -> EvictReport:
        """Drop a tag, and the image it names unless another tag or index of the place names it too; or an image by
        its digest, with all its tags.

        Raises ManifestUnknown if it is not here, Denied if it is part of an index that is, OSError if the disk
        refuses.
        """
        return await self._evict(route.place, target)

    async def _evict(self, place: Place, target: str | Digest) -> EvictReport:
        async with self._turn:
            images = await self._holdings.images_of(place)
            image = _find(images, place, target)
            dropped = (target,) if isinstance(target, str) else tuple(image.tags)
            for tag in dropped:
                await self._records.drop_tag(place, tag)
            if set(image.tags) - set(dropped) or _image_over(images, image.digest) is not None:
                return EvictReport(tags=len(dropped))
            return replace(await self._drop(image), tags=len(dropped))

    async def _drop(self, image: HeldImage) -> EvictReport:
        """Drop an untagged image: content that nobody else uses, then its links."""
        needed_here: set[Digest] = set()
        needed: set[Digest] = set()
        async for other in self._holdings.images():
            if other.place == image.place and other.digest == image.digest:
                continue
            needed.update(other.reach())
            if other.place == image.place:
                needed_here.update(other.reach())
        reach = image.reach()
        report = await self._delete(image, [digest for digest in reach if digest not in needed])
        gone = [digest for digest in reach if digest not in needed_here]
        await self._records.drop_links(image.place, gone)
        await self._end_hydrations(image.place, gone)
        log.info(
            "image evicted",
            place=str(image.place),
            digest=str(image.digest),
            manifests=report.manifests,
            blobs=report.blobs,
            bytes=report.bytes,
        )
        return report

    async def _delete(self, image: HeldImage, digests: Iterable[Digest]) -> EvictReport:
        """Delete from the store what is there: blobs first, the manifests that name them last."""
        report = EvictReport()
        for digest in sorted(digests, key=lambda digest: digest in image.manifests):
            size = await self._store.stat(digest)
            await self._store.delete(digest)
            self._manifests.forget(digest)
            if size is not None:
                is_manifest = digest in image.manifests
                report += EvictReport(manifests=int(is_manifest), blobs=int(not is_manifest), bytes=size)
        return report

    async def _end_hydrations(self, place: Place, digests: Iterable[Digest]) -> None:
        """What waits in the queue must not bring the image back."""
        gone = set(digests)
        for job in await self._index.jobs("queued"):
            if job.place == place and job.manifest in gone:
                await self._index.save_job(replace(job, state="failed", error="its image was evicted"))


def _find(images: Iterable[HeldImage], place: Place, target: str | Digest) -> HeldImage:
    """The image that a tag or digest of this place means."""
    images = list(images)
    for image in images:
        if image.digest == target or target in image.tags:
            return image
    if isinstance(target, Digest) and (whole := _image_over(images, target)) is not None:
        raise Denied(f"{target} is part of {plain_name(place)}@{whole.digest}: evict that one")
    separator = "@" if isinstance(target, Digest) else ":"
    raise ManifestUnknown(f"{plain_name(place)}{separator}{target} is not here")


def _image_over(images: Iterable[HeldImage], digest: Digest) -> HeldImage | None:
    """The image of the place that has this digest as a part."""
    return next(
        (
            image
            for image in images
            if image.digest != digest
            and any(part.digest == digest for held in image.manifests.values() for part in held.parts)
        ),
        None,
    )
