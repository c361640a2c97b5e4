"""The config file as frozen models, section by section; contract.md section 3 in types.

Attribute names carry the unit (`drain_s`, `max_manifest_bytes`), the keys of the file do not (`drain: 25s`). Checks of
one value or one section stand here; what needs two sections stands in `checks`. Knows no files and no environment.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from proxy.config import secrets, units
from proxy.config.fields import (
    EMPTY_LIST,
    EMPTY_MAP,
    Blocked,
    EgressProxy,
    File,
    Flag,
    Fraction,
    FreeShare,
    Host,
    HostOrNetwork,
    HostOrNone,
    HttpUrl,
    Listen,
    MaxShare,
    Name,
    Network,
    OfficialPrefix,
    Positive,
    PositiveSeconds,
    Seconds,
    SecondsOrForever,
    Size,
    SizeOrNone,
    Text,
    Workers,
)
from proxy.config.patterns import Pattern, UpstreamSide, repository_side, upstream_side
from proxy.config.section import Before, Filled, Read, Section, key
from proxy.freshness import FOREVER_S, TagPolicy, Verdict
from proxy.redirect import Redirect

GIB: Final = 1024**3


class ListenTls(Section):
    certificate: File
    key: File


class RegistryConfig(Section):
    listen: Listen = units.Address("127.0.0.1", 5090)
    name: Name = "cistern"
    workers: Workers = 1
    tls: ListenTls | None = None
    drain_s: Seconds = key(25.0, alias="drain")
    default_upstream: HostOrNone = None


class AdminConfig(Section):
    listen: Listen = units.Address("127.0.0.1", 5091)


class ScrubConfig(Section):
    """The background check: every blob once in `every`, at most so many bytes per second."""

    every_s: SecondsOrForever = key(30 * 86_400.0, alias="every")
    max_bandwidth: SizeOrNone = 32 * 1024**2

    def contradiction(self) -> str | None:
        return None if self.every_s > 0 else "every must be more than 0s; forever switches the scrub off"


class CacheConfig(Section):
    directory: File = Path("/var/lib/cistern")
    max_size: MaxShare = units.Share(percent=50.0)
    keep_free: FreeShare = units.Share(percent=20.0)
    scrub: ScrubConfig = ScrubConfig()


class TagsConfig(Section):
    """Defaults of the file, or one rule's overrides: then only the keys given count."""

    fresh_for_s: SecondsOrForever = key(60.0, alias="fresh_for")
    serve_while_checking_s: SecondsOrForever = key(0.0, alias="serve_while_checking")
    check_within_s: SecondsOrForever = key(2.0, alias="check_within")
    stale_for_s: SecondsOrForever = key(FOREVER_S, alias="stale_for")
    on_not_found: Verdict | None = None
    on_denied: Verdict | None = None
    missing_for_s: Seconds = key(10.0, alias="missing_for")

    def policy(self, rule: "TagsConfig | None", *, public: bool) -> TagPolicy:
        """The policy of one rule. `on_not_found` is by default serve_stale for public content and deny for private."""
        given = {name: getattr(self, name) for name in self.fields()}
        if rule is not None:
            given |= {name: getattr(rule, name) for name in rule.given}
        given["on_not_found"] = given["on_not_found"] or (Verdict.SERVE_STALE if public else Verdict.DENY)
        given["on_denied"] = given["on_denied"] or Verdict.DENY
        return TagPolicy(**given)


HydrateImage = Literal["none", "pulled_platforms"]


class HydrateConfig(Section):
    image: HydrateImage = "pulled_platforms"
    concurrency: Positive = 4
    max_bandwidth: SizeOrNone = None  # bytes per second
    quota_reserve: Fraction = 0.2


class RuleHydrateConfig(Section):
    image: HydrateImage


class EndpointConfig(Section):
    url: HttpUrl


class BreakerConfig(Section):
    failures: Positive = 5
    window_s: PositiveSeconds = key(30.0, alias="window")
    reset_after_s: PositiveSeconds = key(30.0, alias="reset_after")


class TimeoutsConfig(Section):
    connect_s: PositiveSeconds = key(5.0, alias="connect")
    headers_s: PositiveSeconds = key(10.0, alias="headers")
    stall_s: PositiveSeconds = key(30.0, alias="stall")


class UpstreamTls(Section):
    ca: File | None = None


class UpstreamConfig(Section):
    endpoints: Annotated[tuple[EndpointConfig, ...], Filled()]
    aliases: Annotated[tuple[Host, ...], EMPTY_LIST] = ()
    official_prefix: OfficialPrefix = None
    credentials: Name | None = None
    breaker: BreakerConfig = BreakerConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    max_connections: Positive = 64
    max_bandwidth: SizeOrNone = None  # bytes per second
    proxy: EgressProxy = "env"
    tls: UpstreamTls = UpstreamTls()
    trusted_realms: Annotated[tuple[Host, ...], EMPTY_LIST] = ()
    trusted_redirects: Annotated[tuple[HostOrNetwork, ...], EMPTY_LIST] = ()
    plain_http: Flag = False
    allow_insecure_credentials: Flag = False


class SecretRef(Section):
    """Where a secret stands: an environment variable or a file."""

    env: Text | None = None
    file: File | None = None

    @classmethod
    def refused(cls, value: object) -> str | None:
        return None if isinstance(value, dict) else "a literal is refused: write {env: NAME} or {file: PATH}"

    def contradiction(self) -> str | None:
        return "must be one of {env: NAME} and {file: PATH}" if (self.env is None) == (self.file is None) else None

    def read(self, environ: Mapping[str, str]) -> str:
        """The secret as it is now; raises SecretUnavailable, which names the variable or file."""
        if self.file is not None:
            return secrets.from_file(self.file)
        return secrets.from_variable(self.env or "", environ)


class CredentialConfig(Section):
    username: Text
    password: SecretRef

    def secret(self, environ: Mapping[str, str] = os.environ) -> str:
        """The password as it is now; raises SecretUnavailable, which names the variable or file."""
        return self.password.read(environ)


NONE: Final = Before(lambda value: None if value == "none" else value)


class RedirectConfig(Section):
    """Blobs over `over_bytes` are fetched from the data address `url` by clients in these networks."""

    url: HttpUrl
    over_bytes: Size = key(1024**2, alias="over")
    clients: Annotated[tuple[Network, ...], Filled()]


class RuleRedirectConfig(Section):
    """One rule's overrides: the keys that are not given are the file's."""

    url: HttpUrl | None = None
    over_bytes: Size | None = key(None, alias="over")
    clients: Annotated[tuple[Network, ...], Filled()] | None = None


class RuleBlobsConfig(Section):
    redirect: Annotated[RuleRedirectConfig | None, NONE]


class BlobsConfig(Section):
    """`listen` is this server's own data address, where it is reached; `key` signs, by default one of its directory."""

    redirect: Annotated[RedirectConfig | None, NONE] = None
    listen: Listen | None = None
    key: SecretRef | None = None

    def redirect_for(self, rule: RuleBlobsConfig | None) -> Redirect | None:
        """Where the clients of a rule get their blobs; None: here."""
        base = self.redirect
        given: dict[str, Any] = {} if base is None else {name: getattr(base, name) for name in base.fields()}
        if rule is not None:
            if rule.redirect is None:
                return None
            own = {name: getattr(rule.redirect, name) for name in rule.redirect.given}
            given |= {name: value for name, value in own.items() if value is not None}
        return Redirect(**({"over_bytes": 1024**2} | given)) if given else None


class RuleConfig(Section):
    name: Name
    repository: Annotated[Pattern | None, Read(repository_side)] = None
    upstream: Annotated[UpstreamSide, Read(upstream_side)]
    credentials: Name | None = None
    endpoint: HttpUrl | None = None
    public: Flag = False
    tags: TagsConfig | None = None
    hydrate: RuleHydrateConfig | None = None
    blobs: RuleBlobsConfig | None = None
    max_size: SizeOrNone = None  # bytes
    deny: Flag = False


class LimitsConfig(Section):
    max_manifest_bytes: Size = key(4 * 1024**2, alias="max_manifest")
    max_blob_bytes: Size = key(100 * GIB, alias="max_blob")
    max_connections: Positive = 10_000
    max_ranges_per_blob: Positive = 8


class Config(Section):
    """The whole configuration. `upstreams` is keyed by the name clients use, lower case."""

    registry: RegistryConfig = RegistryConfig()
    admin: AdminConfig = AdminConfig()
    cache: CacheConfig = CacheConfig()
    tags: TagsConfig = TagsConfig()
    hydrate: HydrateConfig = HydrateConfig()
    upstreams: Annotated[dict[Host, UpstreamConfig], EMPTY_MAP] = key({})
    credentials: Annotated[dict[Name, CredentialConfig], EMPTY_MAP] = key({})
    implicit_rules: Flag = True
    rules: Annotated[tuple[RuleConfig, ...], EMPTY_LIST] = ()
    block: Annotated[frozenset[Blocked], EMPTY_LIST] = frozenset()
    credential_grace_s: SecondsOrForever = key(86_400.0, alias="credential_grace")
    limits: LimitsConfig = LimitsConfig()
    blobs: BlobsConfig = BlobsConfig()
