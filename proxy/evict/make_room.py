"""Makes room when the capacity room calls for it: kept parts first, then what `choose` says, piece by piece.

Runs beside the requests: one look at what is here, then one deletion after the other, each in a disk thread, until
there is room. What is asked for meanwhile is busy from that moment on, and spared. The policy's state is written to the
index after each round and read back at the first: an index that was lost begins again with every image new.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cachetools import TTLCache

from proxy.capacity import Capacity
from proxy.events import BlobAsked, BlobStored, ManifestFetched
from proxy.evict.choice import Loose, brought_up_to_date, choose
from proxy.evict.graph import Graph, Key
from proxy.evict.policy import Entry, S3Fifo
from proxy.evict.removal import EvictReport
from proxy.evict.room import Evict
from proxy.ground import Ground
from proxy.holdings import Holdings
from proxy.log import logger
from proxy.oci import Digest
from proxy.places import named
from proxy.rules import Place, Rules
from proxy.store.base import Rank

log = logger("evict")
BUSY_S: Final = 30.0  # a pull asks for the next blob of its image within that
BUSY_MAX: Final = 100_000
REST_S: Final = 5.0  # after a round that failed or could free nothing: whoever finds no room calls again at once


class MakeRoom:
    """Start `run` as a task. `is_fetched`: whether a transfer of a digest runs now."""

    def __init__(
        self,
        ground: Ground,
        capacity: Capacity,
        holdings: Holdings,
        evict: Evict,
        rules: Callable[[], Rules],
        is_fetched: Callable[[Digest], bool],
    ) -> None:
        self._capacity = capacity
        self._holdings = holdings
        self._evict = evict
        self._rules = rules
        self._index = ground.index
        self._store = ground.blobs
        self._threads = ground.threads
        self._sleep = ground.sleep
        self._is_fetched = is_fetched
        self._policy: S3Fifo[Key] | None = None
        self._arrived: list[Key] = []  # manifests that clients fetched since the running round looked
        self._spared: set[Digest] = set()  # what they need
        self._busy: TTLCache[Digest, bool] = TTLCache(BUSY_MAX, BUSY_S, timer=ground.monotonic)
        ground.events.listen(ManifestFetched, self._hear)
        ground.events.listen(BlobAsked, self._hear)
        ground.events.listen(BlobStored, self._hear)

    def _hear(self, event: ManifestFetched | BlobAsked | BlobStored) -> None:
        self._busy[event.digest] = True
        if isinstance(event, ManifestFetched) and self._evict.turn.locked():
            self._arrived.append((event.route.place, event.digest))

    def is_busy(self, digest: Digest) -> bool:
        """Whether content must stay now: it is read, or fetched, or was asked for a moment ago."""
        known = digest in self._busy or digest in self._spared
        return known or self._is_fetched(digest) or self._store.is_read(digest)

    async def _spare_what_arrived(self) -> None:
        """What an image needs that a client fetched since the look is needed, whatever the look says."""
        while self._arrived:
            image = await self._holdings.image(*self._arrived.pop())
            if image is not None:
                self._spared.update(image.reach())

    async def run(self) -> None:
        """Make room whenever it is called for, until cancelled."""
        while True:
            await self._capacity.short.wait()
            self._capacity.short.clear()
            freed = None
            try:
                freed = await self.round()
            except OSError as error:
                log.warning("no room could be made: the disk refuses", error=str(error))
            except Exception as error:  # one round's fault must not be the last round
                log.exception("no room could be made", error=repr(error))
            is_hopeless = self._capacity.excess() > 0
            self._capacity.wanted = 0
            await self._capacity.made(hopeless=is_hopeless)
            if is_hopeless and freed == EvictReport():
                log.warning("no room could be made: all that is left is in use", busy=len(self._busy))
            if freed is None or (is_hopeless and freed == EvictReport()):
                await self._sleep(REST_S)

    async def round(self) -> EvictReport:
        """Make as much room as is called for now, as far as it goes; what went. OSError: the disk refuses."""
        report = EvictReport()
        await self._capacity.drop_kept_parts()
        if not self._capacity.excess():
            return report
        async with self._evict.turn:
            self._arrived, self._spared = [], set()
            times = await self._index.times()
            graph, linked, rule_of = await self._look(list(times))
            policy = await self._up_to_date(graph, times)
            if graph.freeable(self.is_busy) < self._capacity.shortage():
                self._capacity.wanted = 0  # nothing goes for a body that would not fit then either
            limits = {view.name: view.max_bytes for view in self._rules().listing() if view.max_bytes is not None}
            try:
                for piece in choose(graph, policy, self._capacity.excess, self.is_busy, limits):
                    await self._spare_what_arrived()
                    if isinstance(piece, Loose):
                        places = [place for place, digests in linked.items() if piece.digest in digests]
                        report += await self._evict.removal.loose(piece.digest, places)
                    else:
                        report += await self._evict.removal.image(piece, self.is_busy)
                        place, digest = piece.node.key
                        rule = rule_of.get(place)
                        log.info("image evicted", place=str(place), digest=str(digest), rule=rule, bytes=piece.bytes)
                    await self._capacity.made()
            finally:
                await self._save(policy)
        if report != EvictReport():
            log.info("room was made", **report.as_json())
        return report

    async def _look(
        self, manifests: Sequence[Digest]
    ) -> tuple[Graph, dict[Place, frozenset[Digest]], dict[Place, str | None]]:
        rules = self._rules()
        linked = {
            place: frozenset(link.digest for link in await self._holdings.links(place))
            for place in await self._holdings.places()
        }
        listing = [view.name for view in rules.listing()]
        rule_of = {place: named(rules, listing, place)[1] for place in linked}
        used = await self._index.last_used(manifests)
        return await self._evict.look(rule_of, used), linked, rule_of

    async def _up_to_date(self, graph: Graph, times: Mapping[Digest, int]) -> S3Fifo[Key]:
        policy = self._policy
        if policy is None:
            policy = self._policy = S3Fifo.restored(
                ((rank.place, rank.digest), Entry(0, rank.order, rank.is_main, rank.uses, rank.counted))
                for rank in await self._index.ranks()
            )
        await self._threads.disk(brought_up_to_date, policy, graph, times)
        return policy

    async def _save(self, policy: S3Fifo[Key]) -> None:
        changed, gone = policy.changes()
        ranks = [Rank(*key, entry.is_main, entry.order, entry.uses, entry.counted) for key, entry in changed]
        await self._index.save_ranks(ranks, gone)
