"""What is known of a reference, what follows for a pull of it, and how that is told. Pure."""

import enum
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from proxy.errors import CisternError
from proxy.explain.diagnosis import Problem
from proxy.explain.endpoints import EndpointFacts
from proxy.explain.words import ago
from proxy.freshness import Freshness


class Verdict(enum.Enum):
    """How a pull would end; the values are for people."""

    HERE = "served from here"
    UPSTREAM = "fetched from the upstream"
    STALE = "served from here, marked stale"
    PARTLY = "served from here, but what is missing of it cannot be fetched"
    FAILS = "refused or failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteFacts:
    """Where a pull is led. `credentials` is a name, never more; `credentials_trouble` why they cannot be read."""

    rule: str
    upstream: str
    repository: str
    credentials: str | None
    credentials_trouble: str | None
    public: bool
    endpoints: tuple[EndpointFacts, ...]
    pinned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TagFacts:
    """What the tag last resolved to. Times in seconds; `freshness` is FRESH, EXPIRED… in words."""

    tag: str
    digest: str
    freshness: str
    checked_ago_s: float
    first_seen: float
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldFacts:
    """What is here of the image. `platforms` are those of an index whose manifest is here."""

    digest: str
    media_type: str | None
    manifest_here: bool
    blobs_present: int
    blobs_total: int
    missing: tuple[str, ...]
    platforms: tuple[str, ...]
    is_whole: bool


@dataclass(frozen=True, slots=True)
class AskedFacts:
    """What the upstream said just now: a digest (None: it answered without one), or why it gave none."""

    digest: str | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """All that is known of a reference, in the order a pull meets it."""

    reference: str
    verdict: Verdict
    route: RouteFacts | None = None
    tag: TagFacts | None = None
    held: HeldFacts | None = None
    asked: AskedFacts | None = None
    not_kept: str | None = None  # why what is fetched now would be streamed, and not stored
    problem: Problem | None = None

    @property
    def works(self) -> bool:
        return self.verdict not in (Verdict.FAILS, Verdict.PARTLY)

    def as_json(self) -> dict[str, Any]:
        """Its facts, and the lines of `as_text` as `text`."""
        told = asdict(self) | {"verdict": self.verdict.name.lower(), "works": self.works}
        return told | {"text": self.as_text()}

    def as_text(self) -> list[str]:
        """One fact a line, for people."""
        rows = [("pull", self.verdict.value), *self._facts()]
        if self.not_kept is not None:
            rows.append(("not kept", f"what is fetched now is only passed on: {self.not_kept}"))
        if self.problem is not None:
            rows += [("because", self.problem.why), ("what to do", self.problem.advice)]
        return [self.reference, *(f"  {name:<13} {text}" for name, text in rows)]

    def _facts(self) -> Iterator[tuple[str, str]]:
        if self.route is not None:
            yield from self._route_rows(self.route)
        if self.tag is not None:
            tag = self.tag
            yield "tag", f"{tag.tag} is {tag.digest}, checked {ago(tag.checked_ago_s)}: {tag.freshness}"
        elif self.route is not None and "@" not in self.reference:
            yield "tag", "never resolved here"
        if self.held is not None:
            yield from _held_rows(self.held)
        elif self.route is not None:
            yield "manifest", "not here"
        if self.asked is not None and self._is_news(self.asked):
            yield "upstream says", self.asked.error or self._news(self.asked)

    def _is_news(self, asked: AskedFacts) -> bool:
        """Whether no other row says it: why a pull fails is said with what to do about it."""
        return asked.error is None or self.problem is None or asked.error != self.problem.why

    def _news(self, asked: AskedFacts) -> str:
        if asked.digest is None:
            return "it is there (no digest told)"
        known = self.tag.digest if self.tag is not None else None
        moved = ", another one than here: the next check takes it over" if known not in (None, asked.digest) else ""
        return f"{asked.digest}{moved}"

    def _route_rows(self, route: RouteFacts) -> Iterator[tuple[str, str]]:
        why = "" if self.problem is None else self.problem.why
        yield "rule", route.rule
        yield "upstream", f"{route.upstream}, repository {route.repository}"
        for endpoint in route.endpoints:
            yield "endpoint", f"{endpoint.url} (the only one this rule takes)" if route.pinned else endpoint.url
            yield from (("", note.replace(why, "the same as now") if why else note) for note in endpoint.notes)
        trouble = route.credentials_trouble
        if route.credentials is None:
            yield "credentials", "none: anonymous"
        elif trouble is None:
            yield "credentials", route.credentials
        else:
            yield "credentials", f"{route.credentials}, but {'they cannot be read' if trouble in why else trouble}"


def _held_rows(held: HeldFacts) -> Iterator[tuple[str, str]]:
    yield "manifest", f"{'here' if held.manifest_here else 'not here'}: {held.digest}"
    if held.platforms:
        yield "platforms", f"here are {', '.join(held.platforms)}"
    if held.manifest_here:
        yield "blobs", f"{held.blobs_present} of {held.blobs_total} here"
    for digest in held.missing:
        yield "missing", digest


def judge_pull(
    freshness: Freshness | None,
    held: HeldFacts | None,
    error: CisternError | None,
    *,
    by_tag: bool,
    may_be_stale: bool = True,
    is_refused: bool = False,
) -> Verdict:
    """How a pull would end. `freshness` is the tag record's, None without one; `error` is what asking upstream gave,
    and `may_be_stale` whether it lets a held tag be served; `is_refused`: held content needs the upstream's word, too.

    The same order as `tags` and `pull`: a tag that is fresh, and a digest, are answered from here without asking.
    """
    is_here = held is not None and held.manifest_here
    is_whole = held is not None and held.is_whole
    needs_check = by_tag and freshness not in (Freshness.FRESH, Freshness.CHECK_BEHIND)
    if error is None:
        return Verdict.HERE if is_here and (is_whole or not needs_check) else Verdict.UPSTREAM
    if not is_here or is_refused:
        return Verdict.FAILS
    if needs_check and not (freshness is Freshness.EXPIRED and may_be_stale):
        return Verdict.FAILS
    if not is_whole:
        return Verdict.PARTLY
    return Verdict.STALE if needs_check else Verdict.HERE
