"""What this room reads of the configuration, and nothing more: read-only shapes that `proxy.config` fills.

Knows no file, no environment. Times are seconds, sizes bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol


class EndpointSettings(Protocol):
    @property
    def url(self) -> str: ...


class BreakerSettings(Protocol):
    @property
    def failures(self) -> int: ...
    @property
    def window_s(self) -> float: ...
    @property
    def reset_after_s(self) -> float: ...


class TimeoutSettings(Protocol):
    @property
    def connect_s(self) -> float: ...
    @property
    def headers_s(self) -> float: ...
    @property
    def stall_s(self) -> float: ...


class TlsSettings(Protocol):
    @property
    def ca(self) -> Path | None: ...


class UpstreamSettings(Protocol):
    """One upstream: endpoints in order of preference, and how to reach them."""

    @property
    def endpoints(self) -> Sequence[EndpointSettings]: ...
    @property
    def breaker(self) -> BreakerSettings: ...
    @property
    def timeouts(self) -> TimeoutSettings: ...
    @property
    def max_connections(self) -> int: ...
    @property
    def max_bandwidth(self) -> int | None: ...
    @property
    def proxy(self) -> str: ...
    @property
    def tls(self) -> TlsSettings: ...
    @property
    def trusted_realms(self) -> Sequence[str]: ...
    @property
    def trusted_redirects(self) -> Sequence[str]: ...


class CredentialSettings(Protocol):
    """One credential set. `secret()` reads the password anew, so that a rotated one is taken up; it blocks."""

    @property
    def username(self) -> str: ...
    def secret(self) -> str: ...


class HydrateSettings(Protocol):
    """`quota_reserve` is the share of an upstream's pulls that is left to clients, from 0 to 1."""

    @property
    def max_bandwidth(self) -> int | None: ...
    @property
    def quota_reserve(self) -> float: ...


class LimitSettings(Protocol):
    @property
    def max_manifest_bytes(self) -> int: ...
    @property
    def max_blob_bytes(self) -> int: ...


class Settings(Protocol):
    @property
    def upstreams(self) -> Mapping[str, UpstreamSettings]: ...
    @property
    def credentials(self) -> Mapping[str, CredentialSettings]: ...
    @property
    def limits(self) -> LimitSettings: ...
    @property
    def hydrate(self) -> HydrateSettings: ...
