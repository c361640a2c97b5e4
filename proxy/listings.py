"""Tag lists, referrers and the catalog: lists that change, so they are proxied and cached for moments only.

When the upstream is away the answer is what is here, marked stale. A `Link` never leads a client to another host: only
the upstream's next page query is kept, and the edge writes a relative link of it.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import orjson
from cachetools import LRUCache

from proxy.errors import (
    CisternError,
    ManifestUnknown,
    NameUnknown,
    PaginationInvalid,
    UpstreamDenied,
    UpstreamLied,
    UpstreamNotFound,
    upstream_status,
)
from proxy.events import TagStale
from proxy.flights import Flights
from proxy.ground import Ground
from proxy.manifests import Manifests
from proxy.oci import OCI_INDEX, Digest, ManifestAmbiguous, bare_media_type, parse_manifest
from proxy.outcome import HIT, MISS, Outcome, Result
from proxy.rules import Route, Source
from proxy.upstream.base import Listing

PAGE_MAX: Final = 10_000  # entries of one page, whatever `n` says (threat V34)
CACHED_MAX: Final = 16 << 20  # bytes of pages kept in memory
CACHED_FOR_S: Final = 60.0
SCANNED_MAX: Final = 10_000  # links looked through for referrers that are here
JSON: Final = "application/json"
Query = Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class Page:
    """One page, ready to send. `next_query` is the query of the next one."""

    body: bytes
    media_type: str
    outcome: Outcome
    next_query: str | None = None
    filters_applied: str | None = None


@dataclass(frozen=True, slots=True)
class Cached:
    listing: Listing
    at: float


Key = tuple[Source, str, tuple[tuple[str, str], ...]]


class Listings:
    """Every list that a client may ask for."""

    def __init__(self, ground: Ground, manifests: Manifests) -> None:
        self._records = ground.records
        self._manifests = manifests
        self._upstreams = ground.upstreams
        self._events = ground.events
        self._clock = ground.clock
        self._flights: Flights[Key, Listing] = Flights(ground.tasks, "list")
        self._cached: LRUCache[Key, Cached] = LRUCache(CACHED_MAX, getsizeof=lambda page: len(page.listing.body) + 1000)

    async def catalog(self, query: Query) -> Page:
        """The repositories that are here, as `UPSTREAM/REPOSITORY`; never proxied."""
        size, last = page_of(query)
        names = {f"{place.scope.partition('|')[0]}/{place.repository}" for place in await self._records.places()}
        page, more = paginate(names, size, last)
        body = orjson.dumps({"repositories": page})
        return Page(body, JSON, HIT, urlencode({"n": size, "last": page[-1]}) if more else None)

    async def tags(self, route: Route, query: Query) -> Page:
        """The tags of a repository as its upstream lists them, under the name the client used.

        Raises NameUnknown, PaginationInvalid and what the upstream port raises.
        """
        size, last = page_of(query)
        if size == 0:
            return Page(_tag_body(route, []), JSON, HIT)
        asked = {"n": str(size)} if "n" in query else {}
        asked |= {"last": last} if last is not None else {}
        key: Key = (route.source, "tags", tuple(sorted(asked.items())))
        try:
            listing, outcome = await self._listing(key, route, lambda: self._upstreams.tags(route.source, asked))
        except UpstreamNotFound as cause:
            raise NameUnknown(f"{route.source.upstream} lists no tags of {route.source.repository}") from cause
        except UpstreamDenied:
            raise
        except CisternError as failure:
            return await self._tags_here(route, size, last, failure)
        return Page(_tag_body(route, _tags_of(route, listing)), JSON, outcome, _next(route, listing))

    async def _tags_here(self, route: Route, size: int, last: str | None, failure: CisternError) -> Page:
        held = await self._records.tags(route.place)
        if not held:
            raise failure
        page, more = paginate(held, size, last)
        link = {"n": str(size), "last": page[-1]} if more else None
        outcome = self._stale(route, "tags", max(record.last_checked for record in held.values()), failure)
        return Page(_tag_body(route, page), JSON, outcome, _query(route, link))

    async def referrers(self, route: Route, digest: Digest, query: Query) -> Page:
        """The index of what refers to `digest`, as the upstream answers it, page by page.

        Raises ManifestUnknown where the upstream lacks the API (clients then ask for the tag `sha256-HEX`: F02).
        """
        asked = {name: query[name][-1] for name in ("artifactType", "n", "last") if name in query}
        key: Key = (route.source, str(digest), tuple(sorted(asked.items())))
        try:
            listing, outcome = await self._listing(
                key, route, lambda: self._upstreams.referrers(route.source, digest, asked)
            )
        except UpstreamNotFound as cause:
            raise ManifestUnknown(f"{route.source.upstream} serves no referrers of {digest}") from cause
        except UpstreamDenied:
            raise
        except CisternError as failure:
            return await self._referrers_here(route, digest, asked.get("artifactType"), failure)
        body = _checked_index(route, listing)
        return Page(body, OCI_INDEX, outcome, _next(route, listing), listing.filters_applied)

    async def _referrers_here(
        self, route: Route, digest: Digest, artifact_type: str | None, failure: CisternError
    ) -> Page:
        """The held manifests whose subject is `digest`; an empty index would claim to know that there are none."""
        found = []
        for link in list(await self._records.links(route.place))[:SCANNED_MAX]:
            held = None if link.media_type is None else await self._manifests.held(route.place, link.digest)
            if held is not None and (entry := _referrer(held.body, held.descriptor.media_type, digest)) is not None:
                found.append(entry | {"digest": str(link.digest), "size": held.descriptor.size})
        if not found:
            raise failure
        if artifact_type is not None:
            found = [entry for entry in found if entry.get("artifactType") == artifact_type]
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
        outcome = self._stale(route, "referrers", self._clock(), failure)
        return Page(orjson.dumps(index), OCI_INDEX, outcome, None, "artifactType" if artifact_type else None)

    async def _listing(self, key: Key, route: Route, ask: Callable[[], Awaitable[Listing]]) -> tuple[Listing, Outcome]:
        cached = self._cached.get(key)
        if cached is not None and 0 <= self._clock() - cached.at < min(route.tags.fresh_for_s, CACHED_FOR_S):
            return cached.listing, HIT
        try:
            listing = await self._flights.fly(key, ask)
        except (UpstreamNotFound, UpstreamDenied):
            self._cached.pop(key, None)
            raise
        except CisternError as failure:
            if cached is None:
                raise
            return cached.listing, self._stale(route, key[1], cached.at, failure)
        if len(listing.body) < CACHED_MAX // 2:
            self._cached[key] = Cached(listing, self._clock())
        return listing, MISS

    def _stale(self, route: Route, what: str, checked: float, failure: CisternError) -> Outcome:
        age_s = max(0.0, self._clock() - checked)
        self._events.publish(TagStale(route.place, what, age_s, failure.reason))
        because = f"{failure}; last checked {round(age_s)} s ago"
        return Outcome(
            result=Result.STALE,
            age_s=age_s,
            fresh_for_s=-age_s,
            stale_because=because,
            upstream_status=upstream_status(failure),
        )


def page_of(query: Query) -> tuple[int, str | None]:
    """`n` and `last` of a query; `n` clamped to PAGE_MAX. Raises PaginationInvalid for what is no count."""
    last = query["last"][-1] if "last" in query else None
    if "n" not in query:
        return PAGE_MAX, last
    text = query["n"][-1]
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise PaginationInvalid(f"n is not a count: {text[:40]!r}")
    return min(int(text), PAGE_MAX), last


def paginate(names: Iterable[str], size: int, last: str | None) -> tuple[list[str], bool]:
    """One sorted page after `last`, and whether more follow."""
    rest = sorted(name for name in names if last is None or name > last)
    return rest[:size], 0 < size < len(rest)


def _tag_body(route: Route, tags: list[str]) -> bytes:
    return orjson.dumps({"name": route.client_repository, "tags": tags})


def _tags_of(route: Route, listing: Listing) -> list[str]:
    tags = _object(route, listing).get("tags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise UpstreamLied(route.source.upstream, "its tag list is not a list of text")
    return sorted(tags)


def _checked_index(route: Route, listing: Listing) -> bytes:
    if bare_media_type(listing.media_type) != OCI_INDEX or not isinstance(
        _object(route, listing).get("manifests"), list
    ):
        raise UpstreamLied(route.source.upstream, "its referrers are not an image index")
    return listing.body


def _object(route: Route, listing: Listing) -> dict[str, object]:
    try:
        document = orjson.loads(listing.body)
    except ValueError as cause:
        raise UpstreamLied(route.source.upstream, f"its list is not JSON: {cause}") from cause
    if not isinstance(document, dict):
        raise UpstreamLied(route.source.upstream, "its list is not a JSON object")
    return document


def _referrer(body: bytes, media_type: str, subject: Digest) -> dict[str, object] | None:
    """The descriptor's own fields of a manifest that refers to `subject` (distribution-spec "Listing Referrers")."""
    try:
        manifest = parse_manifest(body, media_type)
    except ManifestAmbiguous:
        return None
    if manifest.subject != subject:
        return None
    document = orjson.loads(body)
    config = document.get("config") or {}
    named = manifest.artifact_type or (config.get("mediaType") if manifest.is_image else None)
    entry: dict[str, object] = {"mediaType": media_type}
    if named is not None:
        entry["artifactType"] = named
    if document.get("annotations"):
        entry["annotations"] = document["annotations"]
    return entry


def _next(route: Route, listing: Listing) -> str | None:
    return _query(route, listing.next_query)


def _query(route: Route, query: Mapping[str, str] | None) -> str | None:
    if query is None:
        return None
    kept = {name: value for name, value in query.items() if name in ("n", "last", "artifactType", "page", "token")}
    return urlencode(({"ns": route.namespace} if route.namespace else {}) | kept)
