"""The config file as frozen models, section by section; contract.md section 3 in types.

Attribute names carry the unit (`drain_s`, `max_manifest_bytes`), the keys of the file do not (`drain: 25s`). Checks of
one value or one section stand here; what needs two sections stands in `checks`. Knows no files and no environment.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from proxy import oci
from proxy.config import secrets, units
from proxy.config.patterns import Pattern, UpstreamSide, repository_side, upstream_side
from proxy.errors import DigestInvalid
from proxy.freshness import FOREVER_S, TagPolicy, Verdict

GIB: Final = 1024**3
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}", re.ASCII)

Text = Annotated[str, PlainValidator(units.text)]
Flag = Annotated[bool, PlainValidator(units.flag)]
Whole = Annotated[int, PlainValidator(units.whole)]
Positive = Annotated[int, PlainValidator(units.positive)]
Size = Annotated[int, PlainValidator(units.positive_size)]
MaxShare = Annotated[units.Share, PlainValidator(units.positive_share)]
Fraction = Annotated[float, PlainValidator(units.fraction)]
FreeShare = Annotated[units.Share, PlainValidator(units.share)]
Seconds = Annotated[float, PlainValidator(units.seconds)]
PositiveSeconds = Annotated[float, PlainValidator(units.positive_seconds)]
SecondsOrForever = Annotated[float, PlainValidator(units.seconds_or_forever)]
File = Annotated[Path, PlainValidator(units.path)]
Host = Annotated[str, PlainValidator(units.host)]
HostOrNetwork = Annotated[str, PlainValidator(units.host_or_network)]
HttpUrl = Annotated[str, PlainValidator(units.http_url)]
EgressProxy = Annotated[str, PlainValidator(units.egress_proxy)]
Listen = Annotated[units.Address, PlainValidator(units.Address.parse)]


def _or_none(read: Any) -> Any:
    """Read a value that may be `none`."""
    return lambda value: None if value is None or value == "none" else read(value)


HostOrNone = Annotated[str | None, PlainValidator(_or_none(units.host))]
SizeOrNone = Annotated[int | None, PlainValidator(_or_none(units.positive_size))]


def _prefix(value: object) -> str | None:
    if value is None or value == "none":
        return None
    prefix = Pattern.parse(units.text(value))
    if prefix.is_wildcard:
        raise ValueError("must be a repository prefix without *")
    return prefix.literal


def _digest(value: object) -> oci.Digest:
    try:
        return oci.Digest.parse(units.text(value))
    except DigestInvalid as cause:
        raise ValueError(str(cause)) from None


def _name(value: object) -> str:
    name = units.text(value)
    if NAME.fullmatch(name) is None:
        raise ValueError("must be a short name: letters, digits and . _ - : (it stands in URLs and metric labels)")
    return name


def _given(value: object, empty: object) -> object:
    """A section or list with nothing under it is an empty one."""
    return empty if value is None else value


Name = Annotated[str, PlainValidator(_name)]
OfficialPrefix = Annotated[str | None, PlainValidator(_prefix)]
Blocked = Annotated[oci.Digest, PlainValidator(_digest)]
EMPTY_LIST = BeforeValidator(lambda value: _given(value, []))
EMPTY_MAP = BeforeValidator(lambda value: _given(value, {}))


class Section(BaseModel):
    """One map of the file: unknown keys refused, nothing changes after load."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_section(cls, value: object) -> object:
        return _given(value, {})


class ListenTls(Section):
    certificate: File
    key: File


class RegistryConfig(Section):
    listen: Listen = units.Address("127.0.0.1", 5090)
    name: Name = "cistern"
    workers: Whole = 1
    tls: ListenTls | None = None
    drain_s: Seconds = Field(default=25.0, alias="drain")
    default_upstream: HostOrNone = None


class AdminConfig(Section):
    listen: Listen = units.Address("127.0.0.1", 5091)


class ScrubConfig(Section):
    """The background check: every blob once in `every`, at most so many bytes per second."""

    every_s: SecondsOrForever = Field(default=30 * 86_400.0, alias="every")
    max_bandwidth: SizeOrNone = 32 * 1024**2

    @model_validator(mode="after")
    def _some_time(self) -> Self:
        if self.every_s <= 0:
            raise ValueError("every must be more than 0s; forever switches the scrub off")
        return self


class CacheConfig(Section):
    directory: File = Path("/var/lib/cistern")
    max_size: MaxShare = units.Share(percent=50.0)
    keep_free: FreeShare = units.Share(percent=20.0)
    scrub: ScrubConfig = ScrubConfig()


class TagsConfig(Section):
    """Defaults of the file, or one rule's overrides: then only the keys given count."""

    fresh_for_s: SecondsOrForever = Field(default=60.0, alias="fresh_for")
    serve_while_checking_s: SecondsOrForever = Field(default=0.0, alias="serve_while_checking")
    check_within_s: SecondsOrForever = Field(default=2.0, alias="check_within")
    stale_for_s: SecondsOrForever = Field(default=FOREVER_S, alias="stale_for")
    on_not_found: Verdict | None = None
    on_denied: Verdict | None = None
    missing_for_s: Seconds = Field(default=10.0, alias="missing_for")

    def policy(self, rule: "TagsConfig | None", *, public: bool) -> TagPolicy:
        """The policy of one rule. `on_not_found` is by default serve_stale for public content and deny for private."""
        given = {key: getattr(self, key) for key in type(self).model_fields}
        if rule is not None:
            given |= {key: getattr(rule, key) for key in rule.model_fields_set}
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
    window_s: PositiveSeconds = Field(default=30.0, alias="window")
    reset_after_s: PositiveSeconds = Field(default=30.0, alias="reset_after")


class TimeoutsConfig(Section):
    connect_s: PositiveSeconds = Field(default=5.0, alias="connect")
    headers_s: PositiveSeconds = Field(default=10.0, alias="headers")
    stall_s: PositiveSeconds = Field(default=30.0, alias="stall")


class UpstreamTls(Section):
    ca: File | None = None


class UpstreamConfig(Section):
    endpoints: Annotated[tuple[EndpointConfig, ...], Field(min_length=1)]
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

    @model_validator(mode="before")
    @classmethod
    def _never_literal(cls, value: object) -> object:
        if not isinstance(value, dict | SecretRef):
            raise ValueError("a literal is refused: write {env: NAME} or {file: PATH}")  # noqa: TRY004 - collected
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.env is None) == (self.file is None):
            raise ValueError("must be one of {env: NAME} and {file: PATH}")
        return self


class CredentialConfig(Section):
    username: Text
    password: SecretRef

    def secret(self, environ: Mapping[str, str] = os.environ) -> str:
        """The password as it is now; raises SecretUnavailable, which names the variable or file."""
        if self.password.file is not None:
            return secrets.from_file(self.password.file)
        return secrets.from_variable(self.password.env or "", environ)


class RuleConfig(Section):
    name: Name
    repository: Annotated[Pattern | None, PlainValidator(repository_side)] = None
    upstream: Annotated[UpstreamSide, PlainValidator(upstream_side)]
    credentials: Name | None = None
    endpoint: HttpUrl | None = None
    public: Flag = False
    tags: TagsConfig | None = None
    hydrate: RuleHydrateConfig | None = None
    max_size: SizeOrNone = None  # bytes
    deny: Flag = False


class RedirectConfig(Section):
    """Blobs over `over_bytes` are answered with a redirect to the data address `url`, for clients in these networks."""

    url: HttpUrl
    over_bytes: Size = Field(default=1024**2, alias="over")
    clients: Annotated[tuple[HostOrNetwork, ...], EMPTY_LIST] = ()


class BlobsConfig(Section):
    redirect: RedirectConfig | None = None


class LimitsConfig(Section):
    max_manifest_bytes: Size = Field(default=4 * 1024**2, alias="max_manifest")
    max_blob_bytes: Size = Field(default=100 * GIB, alias="max_blob")
    max_connections: Positive = 10_000
    max_ranges_per_blob: Positive = 8


class Config(Section):
    """The whole configuration. `upstreams` is keyed by the name clients use, lower case."""

    registry: RegistryConfig = RegistryConfig()
    admin: AdminConfig = AdminConfig()
    cache: CacheConfig = CacheConfig()
    tags: TagsConfig = TagsConfig()
    hydrate: HydrateConfig = HydrateConfig()
    upstreams: Annotated[dict[Host, UpstreamConfig], EMPTY_MAP] = {}
    credentials: Annotated[dict[Name, CredentialConfig], EMPTY_MAP] = {}
    implicit_rules: Flag = True
    rules: Annotated[tuple[RuleConfig, ...], EMPTY_LIST] = ()
    block: Annotated[frozenset[Blocked], EMPTY_LIST] = frozenset()
    credential_grace_s: SecondsOrForever = Field(default=86_400.0, alias="credential_grace")
    limits: LimitsConfig = LimitsConfig()
    blobs: BlobsConfig = BlobsConfig()
