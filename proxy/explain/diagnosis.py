"""From an error to what somebody can do about it, in words. Pure.

The error says what happened, and for whom; the advice names the key to change or the place to look.
"""

from dataclasses import dataclass
from typing import Final

from proxy.errors import (
    CisternError,
    CredentialRefused,
    CredentialUnavailable,
    Denied,
    DialRefused,
    NameUnknown,
    NotHere,
    UpstreamDenied,
    UpstreamLied,
    UpstreamNotFound,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.rules import Route

ELSE: Final = "check the reference; `cistern check` lists what may be asked for"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do about it."""

    why: str
    advice: str


def diagnose(error: CisternError, route: Route | None = None) -> Problem:
    """The problem behind an error; `route` is where the pull was led, None if nowhere."""
    return Problem(str(error), _advice(error, route))


def _advice(error: CisternError, route: Route | None) -> str:
    if route is None:
        return _without_route(error)
    key = f"upstreams.{route.source.upstream}"
    match error:
        case Denied():
            return "take the digest off `block` if it may be served after all"
        case UpstreamDenied():
            return _denied(error, route, key)
        case UpstreamThrottled():
            return f"wait{_wait(error)}; {_more_quota(route, key)}"
        case UpstreamNotFound() | NotHere():
            return "check the name and the tag: the upstream has none such, or hides it from these credentials"
        case DialRefused():
            return f"if it may lead there, name the host in {key}.trusted_redirects or {key}.trusted_realms"
        case UpstreamLied():
            return f"check the endpoints of {key}: is that a registry, and no login page or proxy before it?"
        case UpstreamTimeout() | UpstreamUnavailable():
            return _away(error, route, key)
    return ELSE


def _denied(error: UpstreamDenied, route: Route, key: str) -> str:
    if isinstance(error, CredentialRefused):
        return f"check username and password of the credentials {error.credentials}, and whether they have expired"
    if error.anonymous:
        return f"if it is private, name credentials: {key}.credentials, or `credentials` of the rule {route.rule}"
    return (
        f"let the credentials {error.credentials} read {route.source.repository} at the upstream, or name others in"
        f" the rule {route.rule}"
    )


def _away(error: CisternError, route: Route, key: str) -> str:
    if isinstance(error, CredentialUnavailable) and route.source.credentials is not None:
        return f"look at credentials.{route.source.credentials}.password, and at the token realm"
    return (
        f"try again{_wait(error)}; check the upstream's own status and the way to it: DNS, firewall"
        f" (`cistern check --egress`), {key}.proxy"
    )


def _without_route(error: CisternError) -> str:
    match error:
        case Denied():
            return "a rule with `deny` refuses it: take it off, or allow it by a rule with a longer `upstream`"
        case NameUnknown():
            return (
                "add the registry to `upstreams`, or a rule whose `repository` matches; the name of this cache itself"
                " is no part of a reference. `cistern check` lists what may be asked for"
            )
    return ELSE


def _wait(error: CisternError) -> str:
    return "" if error.retry_after_s is None else f" in {max(1, round(error.retry_after_s))} s"


def _more_quota(route: Route, key: str) -> str:
    if route.source.credentials is None:
        return f"credentials usually have a larger quota: {key}.credentials"
    return f"the quota of the credentials {route.source.credentials} is used up"
