"""What each place holds, told by its links and the manifests themselves: images, their content, and who shares it.

Reads records and manifest bodies, each against its digest; not the index, since what is evicted by this must be right
even where the index was lost. Invariant: a manifest that cannot be read counts as one without children, and is itself
still held. Who deletes by what is found asks `strictly`, so that its layers do not look like nobody's: there the index
tells them, and where it cannot, all that the place holds may be its own.
"""

import asyncio
import errno
import io
from collections.abc import AsyncIterator, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cachetools import LRUCache

from proxy.contents import Contents, Part, contents_of
from proxy.errors import NO_DESCRIPTOR, Denied, NameUnknown
from proxy.freshness import TagRecord
from proxy.ground import Ground
from proxy.log import logger
from proxy.oci import INDEX_TYPES, Digest, ManifestAmbiguous
from proxy.reference import ClientReference
from proxy.rules import Place, Rules
from proxy.store.base import Link

log = logger("holdings")
CONTENTS_MAX: Final = 20_000  # manifests whose children are kept in memory, about 1 KB each
READ_AT_ONCE: Final = 16
BODY_MAX: Final = 64 << 20  # more than any `max_manifest`: what is larger is no manifest
MANY: Final = 500  # manifests of one place that are put together in a thread, not on the event loop
# The process or the machine lacks something for a moment: that says nothing about one file.
PASSING: Final = NO_DESCRIPTOR | {errno.ENOMEM}


@dataclass(frozen=True, slots=True)
class HeldImage:
    """One image of one place: what its tags name, or a manifest that no tag and no index of this place names.

    `manifests` are all of it that this place holds, itself first, with their children; `media_type` is its own.
    """

    place: Place
    digest: Digest
    media_type: str
    tags: Mapping[str, TagRecord] = field(default_factory=dict)
    manifests: Mapping[Digest, Contents] = field(default_factory=dict)

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEX_TYPES

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its children, in order; none if its manifest is not here."""
        held = self.manifests.get(self.digest)
        return () if held is None else held.parts

    def reach(self) -> dict[Digest, int]:
        """Everything that belongs to it, itself included, with the sizes that its manifests tell."""
        found = {self.digest: 0}
        for digest, contents in self.manifests.items():
            found[digest] = contents.size
            for part in contents.parts:
                found.setdefault(part.digest, part.size)
        return found


class Holdings:
    """The images of every place."""

    def __init__(self, ground: Ground) -> None:
        self._records = ground.records
        self._index = ground.index
        self._store = ground.blobs
        self._threads = ground.threads
        self._contents: LRUCache[Digest, Contents] = LRUCache(CONTENTS_MAX)

    async def places(self) -> list[Place]:
        """Every place with a tag or a link, in a fixed order."""
        return sorted(await self._records.places(), key=lambda place: (place.scope, place.repository))

    async def images(
        self, stored: Container[Digest] | None = None, *, strictly: bool = False
    ) -> AsyncIterator[HeldImage]:
        """Every image of every place. `stored` is what is here, where that was looked up just now.

        `strictly`: every manifest has at least the children that it really has. OSError: that cannot be told now.
        """
        for place in await self.places():
            for image in await self.images_of(place, stored, strictly=strictly):
                yield image

    async def images_of(
        self, place: Place, stored: Container[Digest] | None = None, *, strictly: bool = False
    ) -> list[HeldImage]:
        """The images of one place: those with tags by tag, then those without. `strictly` as in `images`."""
        tags: dict[Digest, dict[str, TagRecord]] = {}
        for tag, record in sorted((await self._records.tags(place)).items()):
            tags.setdefault(record.descriptor.digest, {})[tag] = record
        links = [link for link in await self._records.links(place) if link.media_type is not None]
        contents = await self._all_contents(links, stored, strictly)
        if len(links) < MANY:
            return _put_together(place, tags, links, contents)
        return await self._threads.disk(_put_together, place, tags, links, contents)

    async def image(self, place: Place, digest: Digest) -> HeldImage | None:
        """One manifest of a place with all below it, whatever names it; None if the place does not hold it."""
        links: dict[Digest, Link] = {}
        contents: dict[Digest, Contents] = {}
        waiting = [digest]
        while waiting:
            link = await self._records.link(place, waiting.pop())
            if link is None or link.media_type is None or link.digest in links:
                continue
            links[link.digest] = link
            held = await self.contents(link)
            if held is not None:
                contents[link.digest] = held
                waiting += [part.digest for part in held.parts if part.is_manifest]
        if digest not in links:
            return None
        return HeldImage(place, digest, _media_type(links[digest], {}), {}, _reachable(digest, contents))

    async def _all_contents(
        self, links: Sequence[Link], stored: Container[Digest] | None, strictly: bool
    ) -> dict[Digest, Contents]:
        """What these manifests hold; a few are read at once, since each is several jobs for the disk threads."""
        found: dict[Digest, Contents] = {}
        for start in range(0, len(links), READ_AT_ONCE):
            batch = links[start : start + READ_AT_ONCE]
            held = await asyncio.gather(*(self.contents(link, stored, strictly=strictly) for link in batch))
            found |= {link.digest: contents for link, contents in zip(batch, held, strict=True) if contents is not None}
        return found

    async def contents(
        self, link: Link, stored: Container[Digest] | None = None, *, strictly: bool = False
    ) -> Contents | None:
        """What a linked manifest holds, None if it is not here or cannot be read; `strictly` as in `images`."""
        digest = link.digest
        known = self._contents.get(digest)
        try:
            # What came since `stored` was looked up has to be asked for.
            if known is not None and ((stored is not None and digest in stored) or await self._is_here(digest)):
                return known
            body = await self._read(digest)
        except OSError as error:
            if not strictly:
                log.warning("a stored manifest cannot be read", digest=str(digest), error=str(error))
                return None
            if error.errno in PASSING:
                raise
            return await self._remembered(link, str(error), is_here=True)
        if body is None:
            return await self._remembered(link, "it is bad or gone", await self._is_here(digest)) if strictly else None
        try:
            found = self._contents[digest] = contents_of(body, link.media_type)
        except ManifestAmbiguous as error:
            log.warning("a stored manifest makes no sense", digest=str(digest), error=str(error))
            return Contents(len(body), ())
        return found

    async def _remembered(self, link: Link, why: str, is_here: bool) -> Contents | None:
        """What a manifest holds that cannot be read: as the index has it. Where it has nothing, and the manifest is
        here: all that its place holds, since any of it may be its own.
        """
        children: Iterable[tuple[Digest, int, bool]] | None = await self._index.children_of(link.place, link.digest)
        is_guess = children is None
        if children is None:
            if not is_here:
                return None
            children = [(other.digest, other.size, False) for other in await self.links(link.place)]
        log.warning("a stored manifest cannot be read; its layers are spared", digest=str(link.digest), error=why)
        parts = (Part(digest, size, is_manifest) for digest, size, is_manifest in children if digest != link.digest)
        return Contents(link.size, tuple(parts), is_guess)

    async def _is_here(self, digest: Digest) -> bool:
        return await self._store.stat(digest) is not None

    async def _read(self, digest: Digest) -> bytes | None:
        """A manifest's body; one that does not hash to its name is set aside, and not here any more."""
        opened = await self._store.read(digest)
        if opened is None:
            return None
        try:
            body, is_true = await self._threads.disk(_read_checked, opened.file, digest)
        except OSError as error:
            opened.failed(error)
            raise
        finally:
            opened.close()
        if is_true:
            return body
        await self._store.condemn(digest, "a manifest's bytes do not hash to it")
        return None

    async def sizes(self, digests: Collection[Digest] | None = None) -> dict[Digest, int]:
        """The stored ones of `digests` with their sizes in bytes; of everything stored for None, in one pass."""
        if digests is None:
            return {stored.digest: stored.size async for stored in self._store.list()}
        found = {digest: await self._store.stat(digest) for digest in digests}
        return {digest: size for digest, size in found.items() if size is not None}

    async def taken(self) -> dict[Digest, int]:
        """What everything stored takes on the disk, in bytes, in one pass."""
        return {stored.digest: stored.taken async for stored in self._store.list()}

    async def links(self, place: Place) -> Sequence[Link]:
        """Everything that a place is known to hold, manifests and blobs."""
        return await self._records.links(place)

    async def places_named(self, rules: Rules, reference: ClientReference) -> list[Place]:
        """The places that a reference means: where a pull of it leads; where no pull may lead (any more), the places
        of that upstream and repository, so that what a new rule denies can still be seen and evicted.

        Raises NameInvalid, NameUnknown or Denied if nothing of that name is here either.
        """
        try:
            return [rules.route(reference.name, namespace=reference.namespace).place]
        except (NameUnknown, Denied):
            found = [place for place in await self.places() if plain_name(place) == reference.repository]
            if not found:
                raise
            return found


def plain_name(place: Place) -> str:
    """`UPSTREAM/REPOSITORY`: a place without its credentials."""
    return f"{upstream_of(place)}/{place.repository}"


def upstream_of(place: Place) -> str:
    """The upstream of a place, whichever credentials see it."""
    return place.scope.partition("|")[0]


def _read_checked(file: io.FileIO, digest: Digest) -> tuple[bytes, bool]:
    """At most BODY_MAX bytes, and whether they are the digest's; what is larger is not asked."""
    body = file.read(BODY_MAX) or b""
    return body, len(body) == BODY_MAX or digest.matches(body)


def _put_together(
    place: Place,
    tags: Mapping[Digest, Mapping[str, TagRecord]],
    links: Sequence[Link],
    contents: Mapping[Digest, Contents],
) -> list[HeldImage]:
    """Those with tags in the order of these, then those that no tag and no index names."""
    manifests = {link.digest: link for link in links}
    named = {part.digest for held in contents.values() for part in held.parts if part.is_manifest}
    untagged = [digest for digest in manifests if digest not in tags and digest not in named]
    return [
        HeldImage(
            place=place,
            digest=digest,
            media_type=_media_type(manifests.get(digest), tags.get(digest, {})),
            tags=tags.get(digest, {}),
            manifests=_reachable(digest, contents),
        )
        for digest in (*tags, *sorted(untagged, key=str))
    ]


def _media_type(link: Link | None, tags: Mapping[str, TagRecord]) -> str:
    if link is not None and link.media_type is not None:
        return link.media_type
    return next(iter(tags.values())).descriptor.media_type


def _reachable(root: Digest, contents: Mapping[Digest, Contents]) -> dict[Digest, Contents]:
    """The manifests below `root` that are here, `root` first. An index may name itself, or be named twice."""
    found: dict[Digest, Contents] = {}
    waiting = [root]
    while waiting:
        digest = waiting.pop()
        if digest in found or digest not in contents:
            continue
        found[digest] = contents[digest]
        waiting += [part.digest for part in contents[digest].parts if part.is_manifest]
    return found
