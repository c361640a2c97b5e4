"""What follows from each class of upstream failure: the one table, and the few questions asked of it. Pure.

The same table stands in docs/reference.md ("When an upstream fails"); a house test holds the two together.
"""

import enum
from dataclasses import dataclass
from typing import Final

from proxy.errors import (
    CisternError,
    CredentialRefused,
    CredentialUnavailable,
    Failure,
    NotHere,
    UpstreamDenied,
    UpstreamFault,
    UpstreamLied,
    UpstreamNotFound,
    UpstreamSlow,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.freshness import TagPolicy, Verdict


class Stale(enum.Enum):
    """Which key says whether a held tag is served in the place of the failure."""

    STALE_FOR = "stale_for"
    ON_DENIED = "on_denied"
    ON_NOT_FOUND = "on_not_found"
    CREDENTIAL_GRACE = "credential_grace"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """`counts`: for the breaker. `remembered`: answered again for `missing_for` without asking. `retried`: asked once
    more, within the budget, before the client hears of it. `repeat_s`: for up to so long the same request costs a
    retry of the budget, and without one has the same answer. `error` tells what a client hears when nothing is held.
    """

    title: str
    error: type[UpstreamFault]
    counts: bool = False
    stale: Stale = Stale.STALE_FOR
    remembered: bool = False
    retried: bool = False
    repeat_s: float = 0.0


OUTAGE_S: Final = 10.0  # the budget's own window
DENIAL_S: Final = 1.0

POLICIES: Final[dict[Failure, Policy]] = {
    Failure.DNS: Policy(
        title="DNS: no address for its name", error=UpstreamUnavailable, counts=True, repeat_s=OUTAGE_S
    ),
    Failure.CONNECT: Policy(
        title="connect: refused, reset, no route",
        error=UpstreamUnavailable,
        counts=True,
        retried=True,
        repeat_s=OUTAGE_S,
    ),
    Failure.TLS: Policy(
        title="TLS: no handshake, or a certificate that is refused",
        error=UpstreamUnavailable,
        counts=True,
        repeat_s=OUTAGE_S,
    ),
    Failure.TIMEOUT: Policy(
        title="timeout: `connect`, `headers`, `stall`", error=UpstreamTimeout, counts=True, repeat_s=OUTAGE_S
    ),
    Failure.SLOW: Policy(title="slow answer: none within `check_within`", error=UpstreamSlow),
    Failure.SERVER_ERROR: Policy(title="5xx", error=UpstreamUnavailable, counts=True, retried=True, repeat_s=OUTAGE_S),
    Failure.CUT: Policy(
        title="cut: the answer ended early", error=UpstreamUnavailable, counts=True, retried=True, repeat_s=OUTAGE_S
    ),
    Failure.LEFT_ALONE: Policy(title="the breaker is open", error=UpstreamUnavailable),
    Failure.BUSY: Policy(title="`max_connections`: all are in use", error=UpstreamUnavailable),
    Failure.DESCRIPTORS: Policy(title="no file descriptor is left here to ask it with", error=UpstreamUnavailable),
    Failure.THROTTLED: Policy(title="429", error=UpstreamThrottled),
    Failure.DENIED: Policy(
        title="401, 403 with a fresh token", error=UpstreamDenied, stale=Stale.ON_DENIED, repeat_s=DENIAL_S
    ),
    Failure.CREDENTIAL_REFUSED: Policy(
        title="the credential is refused at the realm", error=CredentialRefused, stale=Stale.CREDENTIAL_GRACE
    ),
    Failure.CREDENTIAL_UNAVAILABLE: Policy(
        title="no credential or token: unset, unreadable, realm down", error=CredentialUnavailable
    ),
    Failure.NOT_FOUND: Policy(title="404", error=UpstreamNotFound, stale=Stale.ON_NOT_FOUND, remembered=True),
    Failure.BAD_CONTENT: Policy(title="bad content: another digest, a short body, HTML, no HTTP", error=UpstreamLied),
}


def policy_of(error: CisternError) -> Policy:
    """The policy of any error that a room may meet when it asks an upstream."""
    if isinstance(error, UpstreamFault):
        return POLICIES[error.failure]
    return POLICIES[Failure.NOT_FOUND if isinstance(error, NotHere) else Failure.BAD_CONTENT]


def may_serve_stale(error: CisternError, tags: TagPolicy, *, in_grace: bool) -> bool:
    """Whether a held tag is served in the place of this error, within `stale_for`; `in_grace`: its credential was not
    refused, or not for longer than `credential_grace`.
    """
    match policy_of(error).stale:
        case Stale.ON_NOT_FOUND:
            return tags.on_not_found is Verdict.SERVE_STALE
        case Stale.ON_DENIED:
            return tags.on_denied is Verdict.SERVE_STALE
        case Stale.CREDENTIAL_GRACE:
            return tags.on_denied is Verdict.SERVE_STALE or in_grace
        case Stale.STALE_FOR:
            return True
