"""What a pull of a reference would do: rule, upstream, credentials, what is here, and one HEAD upstream to be sure.

Looks only: no record, no blob and no link changes by it. Secrets are tried, never shown.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from proxy.config import SecretUnavailable
from proxy.current import Current
from proxy.errors import CisternError, Denied, NameInvalid, NameUnknown, UpstreamDenied, UpstreamSlow
from proxy.explain.diagnosis import diagnose
from proxy.explain.endpoints import EndpointFacts, endpoint_facts
from proxy.explain.facts import (
    AskedFacts,
    Explanation,
    HeldFacts,
    RouteFacts,
    TagFacts,
    Verdict,
    judge_pull,
)
from proxy.failures import may_serve_stale
from proxy.freshness import Freshness, TagRecord, judge
from proxy.grace import Grace
from proxy.ground import Ground
from proxy.holdings import Holdings
from proxy.log import public_url
from proxy.oci import Digest
from proxy.reference import LATEST, parse
from proxy.rules import Route
from proxy.upstream.base import ManifestHead
from proxy.upstream.state import EndpointState

ASK_WITHIN_S: Final = 5.0
MISSING_MAX: Final = 10  # missing digests named


class Explain:
    """Explanations. `endpoints` are those of an upstream; `not_kept` says why nothing can be stored now, if so;
    `ask_within_s` bounds the wait for an upstream's answer.
    """

    def __init__(
        self,
        ground: Ground,
        holdings: Holdings,
        current: Current,
        endpoints: Callable[[str], Sequence[EndpointState]],
        grace: Grace,
        *,
        not_kept: Callable[[], str | None],
        ask_within_s: float = ASK_WITHIN_S,
    ) -> None:
        self._holdings = holdings
        self._current = current
        self._endpoints = endpoints
        self._grace = grace
        self._not_kept = not_kept
        self._ask_within_s = ask_within_s
        self._records = ground.records
        self._upstreams = ground.upstreams
        self._threads = ground.threads
        self._clock = ground.clock

    async def explain(self, text: str) -> Explanation:
        """Explain a pull of a reference. Raises NameInvalid, TagInvalid or DigestInvalid for what is none."""
        named = parse(text)
        target = LATEST if named.target is None else named.target
        try:
            route = self._current.rules.route(named.name, namespace=named.namespace)
        except (NameUnknown, NameInvalid, Denied) as error:
            return Explanation(reference=str(named), verdict=Verdict.FAILS, problem=diagnose(error))
        route_facts = await self._route_facts(route)
        record = await self._records.tag(route.place, target) if isinstance(target, str) else None
        freshness = None if record is None else judge(record, route.tags, self._clock())
        wanted = _digest_of(target, record)
        held = await self._held(route, wanted)
        head, failure = await self._ask(route, target, self._patience_s(route, freshness, held))
        if wanted is None and head is not None:
            wanted = head.digest
            held = await self._held(route, wanted)
        refusal = self._refusal(wanted)
        lasts = self._grace.lasts(route)
        verdict = judge_pull(
            freshness,
            held,
            failure,
            by_tag=isinstance(target, str),
            may_be_stale=failure is None or may_serve_stale(failure, route.tags, in_grace=lasts),
            is_refused=isinstance(failure, UpstreamDenied) and self._grace.refuses(route),
        )
        failed = refusal or (failure if verdict in (Verdict.FAILS, Verdict.PARTLY, Verdict.STALE) else None)
        return Explanation(
            reference=str(named),
            verdict=verdict if refusal is None else Verdict.FAILS,
            route=route_facts,
            tag=self._tag_facts(route, str(target), record),
            held=held,
            asked=_asked_facts(head, failure),
            not_kept=self._not_kept(),
            problem=None if failed is None else diagnose(failed, route),
        )

    def _patience_s(self, route: Route, freshness: Freshness | None, held: HeldFacts | None) -> float:
        """How long to ask: of a held tag that needs a check no longer than a pull would, or another end is foretold."""
        if freshness is not Freshness.EXPIRED or held is None or not held.manifest_here:
            return self._ask_within_s
        return min(self._ask_within_s, route.tags.check_within_s)

    async def _ask(
        self, route: Route, target: str | Digest, within_s: float
    ) -> tuple[ManifestHead | None, CisternError | None]:
        """What the upstream says of it, or why it says nothing."""
        try:
            async with asyncio.timeout(within_s):
                return await self._upstreams.head_manifest(route.source, target), None
        except TimeoutError:
            return None, UpstreamSlow(route.source.upstream, f"no answer within {within_s:g} s")
        except CisternError as error:
            return None, error

    def _refusal(self, digest: Digest | None) -> CisternError | None:
        return (
            Denied(f"{digest} is on the block list of this cache")
            if digest is not None and self._current.is_blocked(digest)
            else None
        )

    async def _route_facts(self, route: Route) -> RouteFacts:
        source = route.source
        known = [endpoint_facts(state, source.credentials) for state in self._endpoints(source.upstream)]
        if source.endpoint is not None:
            pinned = public_url(source.endpoint)
            known = [facts for facts in known if facts.url == pinned] or [EndpointFacts(pinned, "closed")]
        return RouteFacts(
            rule=route.rule,
            upstream=source.upstream,
            repository=source.repository,
            credentials=source.credentials,
            credentials_trouble=await self._trouble(source.credentials),
            public=route.public,
            # As the upstream room takes them: in the order of the config, those with an open circuit last.
            endpoints=tuple(sorted(known, key=lambda endpoint: endpoint.circuit == "open")),
            pinned=source.endpoint is not None,
        )

    async def _trouble(self, name: str | None) -> str | None:
        if name is None:
            return None
        credentials = self._current.config.credentials
        if name not in credentials:
            return "no credentials of that name are configured"
        try:
            await self._threads.disk(credentials[name].secret)
        except SecretUnavailable as error:
            return str(error)
        return None

    def _tag_facts(self, route: Route, tag: str, record: TagRecord | None) -> TagFacts | None:
        if record is None:
            return None
        now = self._clock()
        return TagFacts(
            tag=tag,
            digest=str(record.descriptor.digest),
            freshness=judge(record, route.tags, now).value,
            checked_ago_s=max(0.0, now - record.last_checked),
            first_seen=record.first_seen,
            origin=public_url(record.origin),
        )

    async def _held(self, route: Route, digest: Digest | None) -> HeldFacts | None:
        image = None if digest is None else await self._holdings.image(route.place, digest)
        if digest is None or image is None:
            return None
        blobs = {part.digest for held in image.manifests.values() for part in held.parts if not part.is_manifest}
        here = await self._holdings.sizes(blobs)
        missing = sorted(str(blob) for blob in blobs if blob not in here)
        platforms = [part for part in image.parts if part.is_manifest]
        present = [part.platform or str(part.digest) for part in platforms if part.digest in image.manifests]
        manifest_here = digest in image.manifests
        return HeldFacts(
            digest=str(digest),
            media_type=image.media_type,
            manifest_here=manifest_here,
            blobs_present=len(here),
            blobs_total=len(blobs),
            missing=tuple(missing[:MISSING_MAX]),
            platforms=tuple(present),
            is_whole=manifest_here and not missing and bool(present or not platforms),
        )


def _digest_of(target: str | Digest, record: TagRecord | None) -> Digest | None:
    """The image that the pull would be about, as far as it is known here."""
    if isinstance(target, Digest):
        return target
    return None if record is None else record.descriptor.digest


def _asked_facts(head: ManifestHead | None, error: CisternError | None) -> AskedFacts:
    digest = None if head is None or head.digest is None else str(head.digest)
    return AskedFacts(digest, None if error is None else str(error))
