"""Drops an image by its reference: its tag, its manifests, and the content that no other image uses.

What another image names stays, in whichever place that image is, and so does what is being read: an open file outlives
its name. One eviction at a time, of any kind: two at once would each spare what the other one's image shares with it.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from proxy.errors import Denied, ManifestUnknown
from proxy.evict.graph import Graph, graph_of
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
    """Evictions that somebody asks for. `turn` is held through each; `look` is what every kind of eviction goes by."""

    def __init__(self, ground: Ground, holdings: Holdings, manifests: Manifests, rules: Callable[[], Rules]) -> None:
        self._holdings = holdings
        self._rules = rules
        self._records = ground.records
        self._threads = ground.threads
        self.removal = Removal(ground, manifests)
        self.turn = asyncio.Lock()

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
        async with self.turn:
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
            report = await self.removal.image(graph.drop((image.place, image.digest)))
            log.info("image evicted", place=str(place), digest=str(image.digest), **report.as_json())
            return replace(report, tags=len(dropped))

    async def look(self, rule_of: Mapping[Place, str | None], used: Mapping[Digest, float]) -> Graph:
        """Every image that is here, and what is stored. `rule_of` names the rule of a place, and `used` tells when a
        manifest was last fetched, where that matters. OSError: a manifest cannot be read now, so that nobody knows
        what its image needs.
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
