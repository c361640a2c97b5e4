"""Makes room when the capacity room calls for it: kept parts and bad content first, then what `choose` says, piece by
piece.

Runs beside the requests: one look at what is here, then one deletion after the other, each in a disk thread, until
there is room. What is asked for meanwhile is busy from that moment on, and spared. What takes long for many digests is
worked out in a disk thread, or a little at a time: clients go on. The policy's state is written to the
index after each round and read back at the first: an index that was lost begins again with every image new.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from cachetools import TTLCache

from proxy.capacity import Capacity
from proxy.events import BlobAsked, BlobStored, ManifestFetched
from proxy.evict.choice import Loose, brought_up_to_date, choose
from proxy.evict.graph import Dropped, Graph, Key
from proxy.evict.policy import Entry, S3Fifo
from proxy.evict.removal import EvictReport
from proxy.evict.room import Evict
from proxy.ground import Ground
from proxy.holdings import Holdings
from proxy.log import logger
from proxy.oci import Digest
from proxy.places import named
from proxy.rules import Place, Rules
from proxy.store.base import Link, Rank

log = logger("evict")
BUSY_S: Final = 30.0  # a pull asks for the next blob of its image within that
BUSY_MAX: Final = 100_000
USES_AT_ONCE: Final = 5_000  # digests per question to the index
REFUSALS_MAX: Final = 16  # of one round: a file that cannot be deleted must not keep all others, but a disk may refuse
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
        self._busy: TTLCache[Digest, bool] = TTLCache(BUSY_MAX, BUSY_S, timer=ground.monotonic)
        ground.events.listen(ManifestFetched, self._hear)
        ground.events.listen(BlobAsked, self._hear)
        ground.events.listen(BlobStored, self._hear)

    def _hear(self, event: ManifestFetched | BlobAsked | BlobStored) -> None:
        self._busy[event.digest] = True

    def is_busy(self, digest: Digest) -> bool:
        """Whether content must stay now: it is read, or fetched, or was asked for a moment ago. Looks only, each time
        in one step, so that a thread may ask it for an estimate.
        """
        return digest in self._busy or self._is_fetched(digest) or self._store.is_read(digest)

    async def _is_spared(self, digest: Digest) -> bool:
        return await self._evict.is_spared(digest) or self.is_busy(digest)

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
        await self._capacity.drop_bad_content()
        if not self._capacity.excess():
            return report
        async with self._evict.turn():
            times = await self._index.times()
            graph, rule_of = await self._look(list(times))
            policy = await self._up_to_date(graph, times)
            prospect = await self._threads.disk(graph.prospect, self.is_busy)
            if prospect.freeable < self._capacity.shortage():
                self._capacity.wanted = 0  # nothing goes for a body that would not fit then either
            homes = await self._homes(frozenset(prospect.unused), rule_of)
            pieces = choose(graph, prospect, policy, self._capacity.excess, self.is_busy, self._rules().limits)
            try:
                refusals = 0
                for piece in pieces:
                    try:
                        report += await self._removed(piece, rule_of, homes)
                    except OSError as error:
                        log.warning("what was to go cannot be deleted", error=str(error))
                        refusals += 1
                        if refusals == REFUSALS_MAX:
                            raise
            finally:
                await self._save(policy)
        if report != EvictReport():
            log.info("room was made", **report.as_json())
        return report

    async def _removed(
        self,
        piece: Loose | Dropped | None,
        rule_of: Mapping[Place, str | None],
        homes: Mapping[Digest, Sequence[Place]],
    ) -> EvictReport:
        if piece is None:
            await asyncio.sleep(0)  # clients have their turn
            return EvictReport()
        if isinstance(piece, Loose):
            if await self._is_spared(piece.digest):
                return EvictReport()
            report = await self._evict.removal.loose(piece.digest, homes.get(piece.digest, ()))
        else:
            report = await self._evict.removal.image(piece, self._is_spared)
            place, digest = piece.node.key
            rule = rule_of.get(place)
            log.info("image evicted", place=str(place), digest=str(digest), rule=rule, bytes=piece.bytes)
        await self._capacity.made()
        return report

    async def _homes(self, unused: frozenset[Digest], places: Iterable[Place]) -> dict[Digest, list[Place]]:
        """The places that link what no image reaches."""
        found: dict[Digest, list[Place]] = {}
        for place in places if unused else ():
            links = await self._holdings.links(place)
            for digest in await self._threads.disk(_digests_in, links, unused):
                found.setdefault(digest, []).append(place)
        return found

    async def _look(self, manifests: Sequence[Digest]) -> tuple[Graph, Mapping[Place, str | None]]:
        """What is here, and which rule leads to each place."""
        places = await self._holdings.places()
        rule_of = await self._threads.disk(_rules_of, self._rules(), places)
        used: dict[Digest, float] = {}
        for start in range(0, len(manifests), USES_AT_ONCE):
            used |= await self._index.last_used(manifests[start : start + USES_AT_ONCE])
        return await self._evict.look(rule_of, used), rule_of

    async def _up_to_date(self, graph: Graph, times: Mapping[Digest, int]) -> S3Fifo[Key]:
        policy = self._policy
        if policy is None:
            policy = self._policy = await self._threads.disk(_restored, await self._index.ranks())
        await self._threads.disk(brought_up_to_date, policy, graph, times)
        return policy

    async def _save(self, policy: S3Fifo[Key]) -> None:
        await self._index.save_ranks(*await self._threads.disk(_changes_of, policy))


def _rules_of(rules: Rules, places: Iterable[Place]) -> Mapping[Place, str | None]:
    return {place: named(rules, place)[1] for place in places}


def _digests_in(links: Iterable[Link], wanted: frozenset[Digest]) -> list[Digest]:
    return [link.digest for link in links if link.digest in wanted]


def _restored(ranks: Iterable[Rank]) -> S3Fifo[Key]:
    return S3Fifo.restored(
        ((rank.place, rank.digest), Entry(0, rank.order, rank.is_main, rank.uses, rank.counted)) for rank in ranks
    )


def _changes_of(policy: S3Fifo[Key]) -> tuple[list[Rank], list[Key]]:
    changed, gone = policy.changes()
    return [Rank(*key, entry.is_main, entry.order, entry.uses, entry.counted) for key, entry in changed], gone
