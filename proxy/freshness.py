"""What a tag record says at a given time: FRESH, EXPIRED (ask upstream) or TOO_OLD (may not be served). Pure."""

import enum
from dataclasses import dataclass, replace

from proxy.oci import Descriptor

FOREVER_S = float("inf")
PATIENCE = 0.9


class Freshness(enum.Enum):
    FRESH = "fresh"  # answered without asking upstream
    CHECK_BEHIND = "check behind"  # answered at once, checked in the background
    EXPIRED = "expired"  # asked upstream first; may be served stale if asking fails
    TOO_OLD = "too old"  # asked upstream; never served stale


class Verdict(enum.Enum):
    DENY = "deny"
    SERVE_STALE = "serve_stale"


@dataclass(frozen=True, slots=True, kw_only=True)
class TagPolicy:
    """The `tags` keys of the config, in seconds; `on_*` say what a definite upstream answer does to a held tag."""

    fresh_for_s: float = 60.0
    serve_while_checking_s: float = 0.0
    check_within_s: float = 2.0
    stale_for_s: float = FOREVER_S
    on_not_found: Verdict = Verdict.SERVE_STALE
    on_denied: Verdict = Verdict.DENY
    missing_for_s: float = 10.0

    @property
    def patience_s(self) -> float:
        """How long a check is waited for: a little less than `check_within`, so that the answer is there by then."""
        return self.check_within_s * PATIENCE


@dataclass(frozen=True, slots=True, kw_only=True)
class TagRecord:
    """What a tag last resolved to. Times are Unix seconds; `origin` is the endpoint URL that said so."""

    descriptor: Descriptor
    first_seen: float
    last_checked: float
    origin: str

    def renewed(self, now: float, origin: str) -> "TagRecord":
        return replace(self, last_checked=now, origin=origin)


def judge(record: TagRecord, policy: TagPolicy, now: float) -> Freshness:
    """Judge a record at `now`. A stamp from the future says that a clock moved: it counts as just expired."""
    age_s = now - record.last_checked
    if age_s < 0:
        return Freshness.EXPIRED if policy.stale_for_s > 0 else Freshness.TOO_OLD
    if age_s < policy.fresh_for_s:
        return Freshness.FRESH
    if age_s < policy.fresh_for_s + policy.serve_while_checking_s:
        return Freshness.CHECK_BEHIND
    return Freshness.EXPIRED if age_s < policy.fresh_for_s + policy.stale_for_s else Freshness.TOO_OLD
