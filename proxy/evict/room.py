"""Drops an image by its reference: its tag, its manifests, and the content that no other image uses.

What another image names stays, in whichever place that image is, and so does what is being read: an open file outlives
its name. One eviction at a time, of any kind: two at once would each spare what the other one's image shares with it.
What a client fetches the manifest of while an eviction runs is an image that its look may not have seen: it is spared.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

from proxy.errors import Denied, ManifestUnknown
from proxy.events import ManifestFetched
from proxy.evict.graph import Graph, Key, graph_of
from proxy.evict.removal import EvictReport, Removal
from proxy.ground import Ground
from proxy.holdings import HeldImage, Holdings, plain_name
from proxy.log import logger
from proxy.manifests import Manifests
from proxy.oci import Digest
from proxy.reference import LATEST, parse
from proxy.rules import Place, Route, Rules

log = logger("evict")


class Evict:
    """Evictions that somebody asks for. `turn` is entered for each; `look` is what every kind of eviction goes by."""

    def __init__(self, ground: Ground, holdings: Holdings, manifests: Manifests, rules: Callable[[], Rules]) -> None:
        self._holdings = holdings
        self._rules = rules
        self._records = ground.records
        self._threads = ground.threads
        self.removal = Removal(ground, manifests)
        self._one_at_a_time = asyncio.Lock()
        self._arrived: list[Key] = []  # manifests that clients fetched in this turn
        self._spared: set[Digest] = set()  # what they need
        ground.events.listen(ManifestFetched, self._hear)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Around one eviction, from before its look."""
        async with self._one_at_a_time:
            self._arrived, self._spared = [], set()
            yield

    def _hear(self, event: ManifestFetched) -> None:
        if self._one_at_a_time.locked():
            self._arrived.append((event.route.place, event.digest))

    async def is_spared(self, digest: Digest) -> bool:
        """Whether an image needs it that a client fetched in this turn, whatever the look says."""
        while self._arrived:
            image = await self._holdings.image(*self._arrived.pop())
            if image is not None:
                self._spared.update(image.reach())
        return digest in self._spared

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
        async with self.turn():
            images = await self._holdings.images_of(place)
            image = _find(images, place, target)
            dropped = (target,) if isinstance(target, str) else tuple(image.tags)
            for tag in dropped:
                await self._records.drop_tag(place, tag)
            if set(image.tags) - set(dropped) or _image_over(images, image.digest) is not None:
                return EvictReport(tags=len(dropped))
            graph = await self.look({}, {})
            if (image.place, image.digest) not in graph.nodes:  # a tag was all there was of it
                return EvictReport(tags=len(dropped))
            report = await self.removal.image(graph.drop((image.place, image.digest)), self.is_spared)
            log.info("image evicted", place=str(place), digest=str(image.digest), **report.as_json())
            return replace(report, tags=len(dropped))

    async def look(self, rule_of: Mapping[Place, str | None], used: Mapping[Digest, float]) -> Graph:
        """Every image that is here, and what is stored. `rule_of` names the rule of a place, and `used` tells when a
        manifest was last fetched, where that matters. OSError: nobody knows now what some image needs.
        """
        taken = await self._holdings.taken()
        images = [image async for image in self._holdings.images(taken, strictly=True)]
        return await self._threads.disk(graph_of, images, taken, rule_of, used)


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
