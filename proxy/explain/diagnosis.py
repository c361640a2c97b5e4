"""From an error to what somebody can do about it, in words. Pure.

The error says what happened, and for whom; the advice names the key to change or the place to look. There is advice for
every class of upstream failure: a new one without it does not pass the tests.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from proxy.errors import (
    CisternError,
    Denied,
    DialRefused,
    Failure,
    NameUnknown,
    NotHere,
    UpstreamDenied,
    UpstreamFault,
    UpstreamThrottled,
)
from proxy.explain.words import lasting
from proxy.rules import Route

ELSE: Final = "check the reference; `cistern check` lists what may be asked for"


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and what to do about it. `failure` is the class of an upstream's failure."""

    why: str
    advice: str
    failure: str | None = None


def diagnose(error: CisternError, route: Route | None = None) -> Problem:
    """The problem behind an error; `route` is where the pull was led, None if nowhere."""
    failure = error.failure.value if isinstance(error, UpstreamFault) else None
    return Problem(str(error), _advice(error, route), failure)


def _advice(error: CisternError, route: Route | None) -> str:
    if route is None:
        return _without_route(error)
    if isinstance(error, DialRefused):
        key = _key(route)
        return f"if it may lead there, name the host in {key}.trusted_redirects or {key}.trusted_realms"
    if isinstance(error, UpstreamFault):
        return ADVICE[error.failure](error, route)
    if isinstance(error, NotHere):
        return ADVICE[Failure.NOT_FOUND](error, route)
    return "take the digest off `block` if it may be served after all" if isinstance(error, Denied) else ELSE


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


def _key(route: Route) -> str:
    return f"upstreams.{route.source.upstream}"


def _when(error: CisternError) -> str:
    return "" if error.retry_after_s is None else f" in {lasting(max(1.0, error.retry_after_s))}"


def _dns(_error: CisternError, route: Route) -> str:
    return f"check the name in {_key(route)}.endpoints, and the name servers of this machine"


def _connect(error: CisternError, route: Route) -> str:
    return (
        f"try again{_when(error)}; is it up, and is there a way to it: firewall (`cistern check --egress`),"
        f" {_key(route)}.proxy?"
    )


def _tls(_error: CisternError, route: Route) -> str:
    return (
        f"check the certificate that it shows, and this machine's clock; an authority of your own belongs into"
        f" {_key(route)}.tls.ca"
    )


def _timeout(error: CisternError, route: Route) -> str:
    return (
        f"try again{_when(error)}; check the upstream's own status and the way to it: firewall, {_key(route)}.proxy."
        f" Is it always this slow: {_key(route)}.timeouts"
    )


def _server_error(error: CisternError, _route: Route) -> str:
    return (
        f"try again{_when(error)}; the registry itself fails: look at its status page, there is nothing to change here"
    )


def _cut(error: CisternError, route: Route) -> str:
    return (
        f"try again{_when(error)}; something on the way ends its answers early: the registry, a load balancer,"
        f" a firewall, {_key(route)}.proxy"
    )


def _left_alone(error: CisternError, route: Route) -> str:
    return f"it is tried again by itself{_when(error)}; see its last error above. {_connect(error, route)}"


def _busy(error: CisternError, route: Route) -> str:
    return (
        f"try again{_when(error)}; blobs of {route.source.upstream} are under way in all of them: is it slow, or are"
        f" {_key(route)}.max_connections too few?"
    )


def _descriptors(_error: CisternError, _route: Route) -> str:
    return (
        "nothing is wrong with the upstream: raise this process's limit of open files (`LimitNOFILE=` of its unit,"
        " `ulimit -n`), or lower limits.max_connections"
    )


def _throttled(error: CisternError, route: Route) -> str:
    pulls = isinstance(error, UpstreamThrottled) and error.is_pull_limit
    what = "; tags are still checked and blobs still flow" if pulls else ""
    if route.source.credentials is None:
        more = f"credentials usually have a larger quota: {_key(route)}.credentials"
    else:
        more = f"the quota of the credentials {route.source.credentials} is used up"
    return f"wait: it may be asked again{_when(error)}{what}; {more}"


def _denied(error: CisternError, route: Route) -> str:
    name = error.credentials if isinstance(error, UpstreamDenied) else route.source.credentials
    if name is None:
        return (
            f"if it is private, name credentials: {_key(route)}.credentials, or `credentials` of the rule {route.rule}"
        )
    return (
        f"let the credentials {name} read {route.source.repository} at the upstream, or name others in the rule"
        f" {route.rule}"
    )


def _credential_refused(_error: CisternError, route: Route) -> str:
    name = route.source.credentials
    return (
        f"check username and password of the credentials {name}, and whether they have expired or were taken away; a"
        " changed secret is taken up at once. What is held goes on being served for `credential_grace`"
    )


def _credential_unavailable(_error: CisternError, route: Route) -> str:
    if route.source.credentials is None:
        return "its token realm fails: look at the registry's status page, and at the way to the realm"
    return f"look at credentials.{route.source.credentials}.password, and at the token realm and the way to it"


def _not_found(_error: CisternError, _route: Route) -> str:
    return "check the name and the tag: the upstream has none such, or hides it from these credentials"


def _bad_content(_error: CisternError, route: Route) -> str:
    return f"check the endpoints of {_key(route)}: is that a registry, and no login page or proxy before it?"


ADVICE: Final[dict[Failure, Callable[[CisternError, Route], str]]] = {
    Failure.DNS: _dns,
    Failure.CONNECT: _connect,
    Failure.TLS: _tls,
    Failure.TIMEOUT: _timeout,
    Failure.SLOW: _timeout,
    Failure.SERVER_ERROR: _server_error,
    Failure.CUT: _cut,
    Failure.LEFT_ALONE: _left_alone,
    Failure.BUSY: _busy,
    Failure.DESCRIPTORS: _descriptors,
    Failure.THROTTLED: _throttled,
    Failure.DENIED: _denied,
    Failure.CREDENTIAL_REFUSED: _credential_refused,
    Failure.CREDENTIAL_UNAVAILABLE: _credential_unavailable,
    Failure.NOT_FOUND: _not_found,
    Failure.BAD_CONTENT: _bad_content,
}
