"""What findings mean: ok, degraded or failing, and when a member is down. Pure; it looks at nothing itself.

What is the member's own (store, records) decides whether it serves; trouble of an upstream or of a credential set only
degrades, since held content still flows. A dependency check that takes every member down at once would be the outage.
"""

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from proxy.upstream.state import EndpointState

JUDGEMENTS_DOWN: Final = 3
DOWN_AFTER_S: Final = 15.0
JUDGEMENTS_UP: Final = 2
FAULTS_IN_A_ROW: Final = 3  # calls of one endpoint before it counts as troubled; its breaker has its own count
RECENT_S: Final = 120.0  # trouble older than this, with no word since, is history
QUEUE_LATE_S: Final = 3600.0


class State(enum.Enum):
    """How a part is; the values are what JSON and the metric show."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILING = "failing"

    @property
    def level(self) -> int:
        """The value of `cistern_rule_state`: 2 ok, 1 degraded, 0 failing."""
        return {State.OK: 2, State.DEGRADED: 1, State.FAILING: 0}[self]


@dataclass(frozen=True, slots=True)
class Part:
    """One judged part: `why` is for a person, `facts` are JSON values."""

    state: State
    why: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        told = {"status": self.state.value, **self.facts}
        return told if self.why is None else {**told, "why": self.why}


OK: Final = Part(State.OK)


def worst(parts: Iterable[Part]) -> State:
    """The worst state of several parts; OK of none."""
    return min((part.state for part in parts), key=lambda state: state.level, default=State.OK)


@dataclass(slots=True)
class Hysteresis:
    """Whether a member is up: down after 3 bad judgements in a row over at least 15 s, up again after 2 good ones."""

    is_up: bool = True
    bad: int = 0
    good: int = 0
    bad_since: float = 0.0

    def judge(self, now: float, *, is_good: bool) -> bool:
        """Take one judgement in, at `now` (monotonic seconds); whether the member is up after it."""
        if is_good:
            self.good, self.bad = self.good + 1, 0
            self.is_up = self.is_up or self.good >= JUDGEMENTS_UP
            return self.is_up
        self.bad_since = self.bad_since if self.bad else now
        self.bad, self.good = self.bad + 1, 0
        if self.bad >= JUDGEMENTS_DOWN and now - self.bad_since >= DOWN_AFTER_S:
            self.is_up = False
        return self.is_up


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look found; each trouble in words, None if there is none. `secrets` names those that cannot be read."""

    unreadable: str | None = None
    unwritable: str | None = None
    records: str | None = None
    index: str | None = None
    free_bytes: int | None = None
    total_bytes: int | None = None
    queued: int = 0
    oldest_s: float = 0.0
    secrets: Mapping[str, str] = field(default_factory=dict)


def storage(looked: Looked, refused: str | None = None) -> Part:
    """A directory that cannot be read fails; one that cannot be written degrades: what is held still flows, and the
    rest is passed on. `refused` is what the disk said to the last body that was to be kept, None if it took it.
    """
    facts = {"free_bytes": looked.free_bytes, "total_bytes": looked.total_bytes}
    told = {key: value for key, value in facts.items() if value is not None}
    if looked.unreadable is not None:
        return Part(State.FAILING, f"the cache directory cannot be read: {looked.unreadable}", told)
    if looked.unwritable is not None:
        return Part(State.DEGRADED, f"the cache directory cannot be written: {looked.unwritable}", told)
    if refused is not None:
        return Part(State.DEGRADED, f"the disk takes no content: {refused}", told)
    return Part(State.OK, None, told)


def index(looked: Looked) -> Part:
    """Without its records a member cannot serve; without the derived index it forgets only what it learns again."""
    if looked.records is not None:
        return Part(State.FAILING, f"the records cannot be read: {looked.records}")
    if looked.index is not None:
        return Part(State.DEGRADED, f"the index fails: {looked.index}")
    return OK


def queue(looked: Looked) -> Part:
    """The hydration queue: late is degraded, never failing."""
    facts = {"queued": looked.queued, "oldest_seconds": round(looked.oldest_s, 1)}
    if looked.oldest_s > QUEUE_LATE_S:
        return Part(State.DEGRADED, f"the oldest job waits for {round(looked.oldest_s)} s", facts)
    return Part(State.OK, None, facts)


def config(refused: Sequence[str], waiting: Sequence[str]) -> Part:
    """The configuration: degraded while what stands in the file is not what runs."""
    facts = {"restart_needed_for": list(waiting)} if waiting else {}
    if refused:
        return Part(State.DEGRADED, "the last one was refused, the old one stays", {"problems": list(refused), **facts})
    return Part(State.OK, None, facts)


@dataclass(slots=True)
class Heard:
    """What was last heard of an endpoint. Times are monotonic seconds; `last_fault` is a status or a bounded word."""

    faults_in_a_row: int = 0
    last_fault: str | None = None
    faulted_at: float | None = None
    answered_at: float | None = None
    latency_s: float | None = None
    quota_remaining: int | None = None

    def fault(self, word: str, now: float) -> None:
        self.faults_in_a_row += 1
        self.last_fault, self.faulted_at = word, now

    def answer(self, now: float, seconds: float | None = None) -> None:
        self.faults_in_a_row, self.answered_at = 0, now
        if seconds is not None:
            self.latency_s = seconds if self.latency_s is None else 0.8 * self.latency_s + 0.2 * seconds


def endpoint(heard: Heard, state: EndpointState, now: float) -> Part:
    """One endpoint of an upstream: what was heard of it, and how it stands with us."""
    facts = _facts(heard, state, now)
    if state.circuit != "closed":
        return Part(State.DEGRADED, "it failed too often, and is left alone for a while", facts)
    if state.throttled:
        names = ", ".join(facts["throttled_seconds"])
        return Part(State.DEGRADED, f"it asks to be left alone for a while: {names}", facts)
    if heard.faults_in_a_row >= FAULTS_IN_A_ROW and is_recent(heard.faulted_at, now):
        return Part(State.DEGRADED, f"its last {heard.faults_in_a_row} answers were faults", facts)
    return Part(State.OK, None, facts)


def _facts(heard: Heard, state: EndpointState, now: float) -> dict[str, Any]:
    fault = state.last_fault
    facts: dict[str, Any] = {"breaker": state.circuit}
    if state.next_probe_s is not None:
        facts["next_try_seconds"] = round(state.next_probe_s, 1)
    if fault is not None:
        facts |= {"last_error": fault.failure.value, "last_error_seconds_ago": round(fault.ago_s, 1)}
    elif heard.last_fault is not None and heard.faulted_at is not None:
        facts |= {"last_error": heard.last_fault, "last_error_seconds_ago": round(now - heard.faulted_at, 1)}
    if heard.latency_s is not None:
        facts["latency_seconds"] = round(heard.latency_s, 4)
    heard_last = [] if heard.quota_remaining is None else [heard.quota_remaining]
    if told := [quota.remaining for quota in state.quotas] or heard_last:
        facts["quota_remaining"] = min(told)
    if state.throttled:
        facts["throttled_seconds"] = {
            gate.credentials or "anonymous": round(gate.left_s, 1) for gate in state.throttled
        }
    return facts


def is_recent(at: float | None, now: float) -> bool:
    return at is not None and now - at <= RECENT_S


def trouble(heard: Heard, now: float, what: str, unavailable: str | None = None) -> Part:
    """An upstream as a whole, or a credential set: troubled while its last word was a fault, and recent."""
    if unavailable is not None:
        return Part(State.DEGRADED, unavailable)
    if heard.faults_in_a_row and is_recent(heard.faulted_at, now):
        return Part(State.DEGRADED, f"{what}: {heard.last_fault}", {"last_error": heard.last_fault})
    return OK


def upstream(endpoints: Collection[Part], whole: Part) -> Part:
    """Degraded when none of its endpoints is well, or when what it says cannot be true."""
    if whole.state is not State.OK:
        return whole
    if endpoints and all(part.state is not State.OK for part in endpoints):
        return Part(State.DEGRADED, next(part.why for part in endpoints))
    return OK


def rule(own: Mapping[str, Part], foreign: Mapping[str, Part], *, is_up: bool) -> Part:
    """A rule: failing only with the member, after hysteresis; all other trouble degrades. Names say whose it is."""
    troubled = {
        name: part.why or part.state.value for name, part in {**own, **foreign}.items() if part.state is not State.OK
    }
    state = State.FAILING if not is_up else State.DEGRADED if troubled else State.OK
    return Part(state, None, {"troubles": troubled} if troubled else {})
