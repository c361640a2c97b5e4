"""The words of routing: what stands where, where it comes from, and how a rule looks from outside. Pure data."""

from dataclasses import dataclass

from proxy.freshness import TagPolicy
from proxy.redirect import Redirect


@dataclass(frozen=True, slots=True)
class Place:
    """One repository as one credential set sees it: the unit of "may be served under".

    `scope` is `UPSTREAM` or `UPSTREAM|CREDENTIALS`; `repository` is the upstream's name for it.
    """

    scope: str
    repository: str

    def __str__(self) -> str:
        return f"{self.scope}/{self.repository}"


@dataclass(frozen=True, slots=True)
class Source:
    """Where content comes from: one repository of one upstream, seen with one credential set.

    `credentials` names a set of the config, None is anonymous; `endpoint` pins one endpoint URL (a rule's `endpoint:`).
    """

    upstream: str
    repository: str
    credentials: str | None = None
    endpoint: str | None = None

    @property
    def place(self) -> Place:
        scope = self.upstream if self.credentials is None else f"{self.upstream}|{self.credentials}"
        return Place(scope, self.repository)


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A rule applied to one repository.

    `namespace` is the `ns` to echo in OCI-Namespace; `is_mirror` says that the client named an upstream (ns, prefix,
    bare path), not a rule's own path, so that a throttled upstream is told as 503; `client_repository` is the name as
    the client wrote it.
    """

    rule: str
    source: Source
    client_repository: str
    tags: TagPolicy
    hydrate: bool
    public: bool
    is_mirror: bool
    namespace: str | None = None
    redirect: Redirect | None = None

    @property
    def place(self) -> Place:
        return self.source.place


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleView:
    """A rule as shown by `check`, the admin address and health. The two sides are patterns as text; `max_bytes` is its
    soft limit, None without one.
    """

    name: str
    repository: str | None
    upstream: str
    credentials: str | None
    endpoint: str | None
    tags: TagPolicy
    hydrate: bool
    public: bool
    deny: bool
    implicit: bool
    max_bytes: int | None = None
    redirect: Redirect | None = None


@dataclass(frozen=True, slots=True)
class Overlap:
    """`rule` and `other` match some of the same names; `reason` says which one is taken."""

    rule: str
    other: str
    reason: str
