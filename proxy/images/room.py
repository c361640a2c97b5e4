"""Which images are here, how complete, how big and when last used; and how much is kept in all, by whom.

Looks only: nothing is fetched, changed or evicted. All who ask at one time share one look through the store. The disk
is read, and what was read is added up, in disk threads: a cache of many images must not hold up its clients.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from proxy.capacity import Capacity, days_to_full, growth_per_day
from proxy.flights import Flights
from proxy.ground import Ground
from proxy.holdings import HeldImage, Holdings
from proxy.images.views import DiskView, ImageView, Survey, UsageView, survey_of, usage_of, view_of
from proxy.oci import Digest
from proxy.reference import parse
from proxy.rules import Place, Rules

USES_AT_ONCE: Final = 5_000  # digests per question to the index


class Images:
    """What is here."""

    def __init__(self, ground: Ground, holdings: Holdings, rules: Callable[[], Rules], capacity: Capacity) -> None:
        self._holdings = holdings
        self._rules = rules
        self._capacity = capacity
        self._index = ground.index
        self._threads = ground.threads
        self._clock = ground.clock
        self._surveys: Flights[str, Survey] = Flights(ground.tasks, "survey")

    async def listing(self, reference: str | None = None) -> list[ImageView]:
        """Every image, or those that `reference` means: a repository, or one of its tags or digests.

        Raises NameInvalid, TagInvalid, DigestInvalid; NameUnknown and Denied if nothing of that name is here.
        """
        wanted: set[Place] | None = None
        target: str | Digest | None = None
        if reference is not None:
            named = parse(reference, default_tag=None)
            wanted, target = set(await self._holdings.places_named(self._rules(), named)), named.target
        survey = await self._survey()
        chosen = [
            image for image in survey.images if (wanted is None or image.place in wanted) and _is_meant(image, target)
        ]
        used = await self._last_used(chosen)
        return await self._threads.disk(_views, chosen, survey, used)

    async def usage(self) -> UsageView:
        """How much is kept."""
        survey = await self._survey()
        disk = await self._disk()
        return await self._threads.disk(usage_of, survey, disk, self._rules().limits)

    async def _disk(self) -> DiskView:
        await self._capacity.look()
        ledger, capacity, now = self._capacity.ledger, self._capacity, self._clock()
        growth = growth_per_day(await self._index.sizes(), now, ledger.taken) if ledger.known else None
        return DiskView(
            used_bytes=ledger.taken if ledger.known else None,
            reserved_bytes=ledger.reserved,
            parts_bytes=ledger.parts,
            limit_bytes=capacity.cap or 0,
            free_bytes=capacity.free,
            keep_free_bytes=capacity.keep_free,
            growth_per_day_bytes=growth,
            days_to_full=days_to_full(capacity.left(), growth),
        )

    async def _survey(self) -> Survey:
        return await self._surveys.fly("", self._look)

    async def _look(self) -> Survey:
        images: list[HeldImage] = []
        linked: dict[Place, frozenset[Digest]] = {}
        stored = await self._holdings.sizes()
        for place in await self._holdings.places():
            images += await self._holdings.images_of(place, stored)
            linked[place] = frozenset(link.digest for link in await self._holdings.links(place))
        return await self._threads.disk(survey_of, images, stored, linked, self._rules())

    async def _last_used(self, images: Sequence[HeldImage]) -> dict[int, float]:
        """The latest use of anything of each image, by its place in `images`."""
        found: dict[int, float] = {}
        for numbers in _batches(images):
            digests = {digest for number in numbers for digest in images[number].reach()}
            uses = await self._index.last_used(list(digests))
            for number in numbers:
                times = [uses[digest] for digest in images[number].reach() if digest in uses]
                if times:
                    found[number] = max(times)
        return found


def _views(images: Sequence[HeldImage], survey: Survey, used: Mapping[int, float]) -> list[ImageView]:
    views = [view_of(image, survey, used.get(number)) for number, image in enumerate(images)]
    return sorted(views, key=lambda view: (view.reference, view.digest))


def _is_meant(image: HeldImage, target: str | Digest | None) -> bool:
    if target is None:
        return True
    return image.digest == target if isinstance(target, Digest) else target in image.tags


def _batches(images: Sequence[HeldImage]) -> Iterator[list[int]]:
    """The places of images, together so many that their content is about USES_AT_ONCE digests."""
    batch: list[int] = []
    size = 0
    for number, image in enumerate(images):
        batch.append(number)
        size += len(image.reach())
        if size >= USES_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
