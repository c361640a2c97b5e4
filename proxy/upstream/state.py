"""How an endpoint stands, for those who only look: health, `explain`, metrics. Frozen facts, no secrets."""

from dataclasses import dataclass

from proxy.errors import Failure


@dataclass(frozen=True, slots=True)
class LastFault:
    """The last failure of an endpoint: its class, its words, how long ago in seconds."""

    failure: Failure
    words: str
    ago_s: float


@dataclass(frozen=True, slots=True)
class Throttled:
    """A credential (None: anonymous) that is asked nothing for `left_s` more seconds. `limit` is pulls or requests."""

    credentials: str | None
    limit: str
    left_s: float


@dataclass(frozen=True, slots=True)
class QuotaLeft:
    """What the upstream said of a credential's pulls, `ago_s` seconds ago; `limit` and `source` if it told them."""

    credentials: str | None
    remaining: int
    limit: int | None
    source: str | None
    ago_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointState:
    """`circuit` is closed, open or half-open (a probe is under way). `last_fault` is that since the last good answer,
    None when the last word was good; `last_break` is how the last body broke off, None when it came whole.
    """

    url: str
    circuit: str
    open_for_s: float | None
    next_probe_s: float | None
    last_fault: LastFault | None
    last_break: LastFault | None
    answered_ago_s: float | None
    throttled: tuple[Throttled, ...]
    quotas: tuple[QuotaLeft, ...]
