"""How the endpoints that a pull would ask stand with us, in facts and in words. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from proxy.explain.words import ago, lasting
from proxy.upstream.state import EndpointState


@dataclass(frozen=True, slots=True)
class EndpointFacts:
    """`circuit` is closed, open or half-open. Times are seconds; None is "not so". `notes` say all of it in words."""

    url: str
    circuit: str
    open_for_s: float | None = None
    next_try_s: float | None = None
    last_error: str | None = None
    last_error_ago_s: float | None = None
    throttled_for_s: float | None = None
    notes: tuple[str, ...] = ()


def endpoint_facts(state: EndpointState, credentials: str | None) -> EndpointFacts:
    """One endpoint, as a pull with these credentials finds it."""
    fault = state.last_fault
    gates = [gate for gate in state.throttled if gate.credentials == credentials]
    return EndpointFacts(
        url=state.url,
        circuit=state.circuit,
        open_for_s=state.open_for_s,
        next_try_s=state.next_probe_s,
        last_error=None if fault is None else fault.failure.value,
        last_error_ago_s=None if fault is None else fault.ago_s,
        throttled_for_s=max((gate.left_s for gate in gates), default=None),
        notes=tuple(_notes(state, credentials)),
    )


def _notes(state: EndpointState, credentials: str | None) -> Iterator[str]:
    if state.circuit != "closed":
        since = "" if state.open_for_s is None else f", left alone for {lasting(state.open_for_s)}"
        until = "" if state.next_probe_s is None else f"; tried again in {lasting(state.next_probe_s)}"
        yield f"its circuit is {state.circuit}{since}{until}"
    if state.last_fault is not None:
        yield f"{ago(state.last_fault.ago_s)}: {state.last_fault.words}"
    if state.last_break is not None:
        yield f"a blob broke off {ago(state.last_break.ago_s)}: {state.last_break.words}"
    for gate in state.throttled:
        if gate.credentials == credentials:
            what = "pulls" if gate.limit == "pulls" else "requests"
            yield f"asks for no {what} for {lasting(gate.left_s)} more"
    for quota in state.quotas:
        if quota.credentials == credentials:
            most = "" if quota.limit is None else f" of {quota.limit}"
            yield f"{quota.remaining}{most} pulls left, as it said {ago(quota.ago_s)}"
