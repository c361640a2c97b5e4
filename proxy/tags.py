"""What each tag last resolved to, when that was checked, and what to do when checking fails.

Past `fresh_for` all who ask wait, at most `check_within`, for one HEAD upstream. Definite answers (404, 401/403) follow
the rule's policy; anything else is an outage, and a held tag is served stale within `stale_for`. A tag is served stale
only if its manifest is here. Invariant: a record's digest is what a body hashed to, or what a HEAD named, never a mix.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from proxy.errors import (
    CisternError,
    ManifestUnknown,
    NotHere,
    UpstreamDenied,
    UpstreamNotFound,
    UpstreamSlow,
    UpstreamThrottled,
    upstream_status,
)
from proxy.events import NotStored, TagMoved, TagStale
from proxy.failures import may_serve_stale
from proxy.flights import Flights
from proxy.freshness import Freshness, TagRecord, judge
from proxy.grace import Grace
from proxy.ground import Ground
from proxy.manifests import Held, Manifests
from proxy.missing import Missing
from proxy.oci import Descriptor, Digest
from proxy.outcome import HIT, MISS, Outcome, Result
from proxy.remembered import Remembered
from proxy.rules import Route, Source

REMEMBERED: Final = 10_000  # failed checks and missing tags kept in memory
FAILED_FOR_S: Final = 1.0  # a failed check is not asked again within this
DEFINITE: Final = (NotHere, UpstreamNotFound, UpstreamDenied, UpstreamThrottled)  # who says so is not silent
Key = tuple[Source, str]  # not the place: a rule that pins an endpoint hears of that one alone


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a tag stands for now, and how that is known; for a plain hit, since when (Unix seconds)."""

    descriptor: Descriptor
    outcome: Outcome
    checked_at: float | None = None


class Late:
    """Checks under way that have outlasted their time: nobody waits for one of them again, nor for another one at an
    upstream that has said nothing since.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self._keys: set[Key] = set()
        self._silent: dict[tuple[str, str | None], set[Key]] = {}  # by upstream and, for a rule's own, endpoint
        self._answered_at: dict[tuple[str, str | None], float] = {}

    def is_known(self, key: Key) -> bool:
        """Whether waiting for this check would be in vain, as far as anybody knows."""
        return key in self._keys or bool(self._silent.get(_asked_at(key)))

    def add(self, key: Key, began: float) -> None:
        """A check that began then (monotonic seconds) has no answer in time."""
        self._keys.add(key)
        if self._answered_at.get(_asked_at(key), float("-inf")) < began:
            self._silent.setdefault(_asked_at(key), set()).add(key)

    def answered(self, key: Key) -> None:
        """The upstream said something definite of this tag: others are worth a wait again."""
        self._answered_at[_asked_at(key)] = self.monotonic()
        self._silent.pop(_asked_at(key), None)

    def ended(self, key: Key) -> None:
        self._keys.discard(key)
        if (silent := self._silent.get(_asked_at(key))) is not None:
            silent.discard(key)


def _asked_at(key: Key) -> tuple[str, str | None]:
    return key[0].upstream, key[0].endpoint


class Tags:
    """Every tag known under some place."""

    def __init__(self, ground: Ground, manifests: Manifests, grace: Grace) -> None:
        self._records = ground.records
        self._upstreams = ground.upstreams
        self._manifests = manifests
        self._events = ground.events
        self._clock = ground.clock
        self._checks: Flights[tuple[Key, bool], tuple[TagRecord, Outcome]] = Flights(ground.tasks, "check tag")
        self._late = Late(ground.monotonic)
        self._failed: Remembered[Key, CisternError] = Remembered(REMEMBERED, ground.clock)
        self._missing = Missing(ground)
        self._grace = grace

    async def resolve(self, route: Route, tag: str, *, want_body: bool) -> Resolved:
        """The descriptor of a tag. With `want_body` a cold tag is fetched by one GET, else by one HEAD.

        Raises ManifestUnknown and what the upstream port raises.
        """
        key = (route.source, tag)
        record = await self._records.tag(route.place, tag)
        if record is None:
            self._missing.refuse(ManifestUnknown, route, tag)
            found, outcome = await self._checks.fly((key, want_body), lambda: self._first(route, tag, want_body))
            return Resolved(found.descriptor, outcome)
        left_s = record.last_checked + route.tags.fresh_for_s - self._clock()
        match freshness := judge(record, route.tags, self._clock()):
            case Freshness.FRESH:
                return Resolved(record.descriptor, HIT, record.last_checked)
            case Freshness.CHECK_BEHIND:
                self._checks.start((key, False), lambda: self._watched(route, tag, record))
                return Resolved(record.descriptor, Outcome(result=Result.HIT, fresh_for_s=left_s))
            case _:
                return await self._checked(route, tag, record, may_be_stale=freshness is Freshness.EXPIRED)

    async def settled(self) -> None:
        """Wait until no check runs."""
        await self._checks.landed()

    async def refresh(self, route: Route, tag: str) -> Resolved:
        """Check a tag upstream now, whatever its age (`cistern refresh`)."""
        key = (route.source, tag)
        self._failed.forget(key)
        self._missing.forget(ManifestUnknown, route, tag)
        record = await self._records.tag(route.place, tag)
        if record is None:
            return await self.resolve(route, tag, want_body=True)
        found, outcome = await self._checks.fly((key, False), lambda: self._watched(route, tag, record))
        return Resolved(found.descriptor, outcome)

    async def _first(self, route: Route, tag: str, want_body: bool) -> tuple[TagRecord, Outcome]:
        try:
            descriptor, origin = await self._ask(route.source, tag, want_body)
        except (ManifestUnknown, UpstreamNotFound) as cause:
            self._missing.note(ManifestUnknown, route, tag)
            raise ManifestUnknown(f"{route.source.upstream} has no tag {tag} in {route.source.repository}") from cause
        now = self._clock()
        record = TagRecord(descriptor=descriptor, first_seen=now, last_checked=now, origin=origin)
        return record, await self._saved(route.source, tag, record, MISS)

    async def _ask(self, source: Source, tag: str, want_body: bool) -> tuple[Descriptor, str]:
        if not want_body:
            head = await self._upstreams.head_manifest(source, tag)
            if head.digest is not None and head.media_type is not None and head.size:
                return Descriptor(head.media_type, head.digest, head.size), head.origin
        fetched = await self._manifests.fetch(source, tag)
        return fetched.descriptor, fetched.origin or ""

    async def _checked(self, route: Route, tag: str, record: TagRecord, *, may_be_stale: bool) -> Resolved:
        key, policy = (route.source, tag), route.tags
        # Looked up before the check: with nothing to serve in its place, a late answer is worth waiting for.
        may_be_stale = may_be_stale and await self._manifests.held(route.place, record.descriptor.digest) is not None
        failure = self._failed.get(key)
        slow = UpstreamSlow(route.source.upstream, f"no answer within {policy.check_within_s:g} s")
        if failure is None and may_be_stale and self._late.is_known(key):
            self._checks.start((key, False), lambda: self._watched(route, tag, record))
            failure = slow  # somebody has waited there already: nobody waits again
        if failure is None:
            began = self._late.monotonic()
            check = self._checks.start((key, False), lambda: self._unless_renewed(route, tag, record))
            try:
                async with asyncio.timeout(policy.patience_s if may_be_stale else None):
                    renewed, outcome = await asyncio.shield(check)
                return Resolved(renewed.descriptor, outcome)
            except TimeoutError:
                failure = slow
                if not check.done():  # else it ended in this very turn, and nobody would take it off again
                    self._late.add(key, began)
            except CisternError as error:
                failure = error
        if may_be_stale and may_serve_stale(failure, policy, in_grace=self._grace.lasts(route)):
            return self._stale(route, tag, record, failure)
        if isinstance(failure, NotHere | UpstreamNotFound):
            await self._forget(route, tag)
            raise ManifestUnknown(f"{route.source.upstream} no longer has tag {tag} in {route.source.repository}")
        raise failure

    async def _unless_renewed(self, route: Route, tag: str, record: TagRecord) -> tuple[TagRecord, Outcome]:
        """A check, unless another one has ended since the record was read: of a crowd, somebody comes that late."""
        latest = await self._records.tag(route.place, tag)
        if latest is not None and latest.last_checked > record.last_checked:
            return latest, _checked_outcome(304)
        return await self._watched(route, tag, record)

    async def _watched(self, route: Route, tag: str, record: TagRecord) -> tuple[TagRecord, Outcome]:
        """A check whose failure is remembered for a moment, whether or not anybody still waits for it."""
        key = (route.source, tag)
        try:
            checked = await self._check(route, tag, record)
        except CisternError as error:
            if isinstance(error, DEFINITE):
                self._late.answered(key)
            if not isinstance(error, UpstreamDenied):  # told again without asking, until the secret changes
                self._failed.note(key, error, FAILED_FOR_S)
            raise
        else:
            self._late.answered(key)
            return checked
        finally:
            self._late.ended(key)

    async def _check(self, route: Route, tag: str, record: TagRecord) -> tuple[TagRecord, Outcome]:
        """Ask upstream: the same digest renews the record; another one is fetched first, then recorded."""
        head = await self._upstreams.head_manifest(route.source, tag)
        before = record.descriptor.digest
        if head.digest == before:
            renewed = record.renewed(self._clock(), head.origin)
            return renewed, await self._saved(route.source, tag, renewed, _checked_outcome(304))
        fetched = await self._fetch(route.source, tag, head.digest)
        moved = fetched.descriptor.digest != before
        now = self._clock()
        found = TagRecord(
            descriptor=fetched.descriptor,
            first_seen=now if moved else record.first_seen,
            last_checked=now,
            origin=fetched.origin or head.origin,
        )
        if moved:
            self._events.publish(TagMoved(route.place, tag, before, fetched.descriptor.digest))
        return found, await self._saved(route.source, tag, found, _checked_outcome(200 if moved else 304))

    async def _fetch(self, source: Source, tag: str, named: Digest | None) -> Held:
        """The manifest that a HEAD named. Where it is gone already the tag has moved on, and is asked itself."""
        if named is not None:
            with suppress(NotHere):
                return await self._manifests.fetch(source, named)
        return await self._manifests.fetch(source, tag)

    async def _saved(self, source: Source, tag: str, record: TagRecord, outcome: Outcome) -> Outcome:
        """Save a record; a disk that refuses is told, and fails nobody."""
        self._failed.forget((source, tag))
        try:
            await self._records.save_tag(source.place, tag, record)
        except OSError as error:
            self._events.publish(NotStored(source.place, record.descriptor.digest, "disk", str(error)))
        return outcome

    def _stale(self, route: Route, tag: str, record: TagRecord, failure: CisternError) -> Resolved:
        age_s = max(0.0, self._clock() - record.last_checked)
        self._events.publish(TagStale(route.place, tag, age_s, failure.reason))
        outcome = Outcome(
            result=Result.STALE,
            age_s=age_s,
            fresh_for_s=min(0.0, route.tags.fresh_for_s - age_s),
            stale_because=f"{failure}; last checked {round(age_s)} s ago",
            upstream_status=upstream_status(failure),
        )
        return Resolved(record.descriptor, outcome)

    async def _forget(self, route: Route, tag: str) -> None:
        self._missing.note(ManifestUnknown, route, tag)
        try:
            await self._records.drop_tag(route.place, tag)
        except OSError as error:
            self._events.publish(NotStored(route.place, None, "disk", str(error)))


def _checked_outcome(status: int) -> Outcome:
    return Outcome(result=Result.HIT if status == 304 else Result.MISS, checked_status=status)
