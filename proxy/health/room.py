"""Whether this member serves: judged every few seconds, read at any moment by probes, reports and metrics.

Answers come from the last judgement, so that a thousand probes cost one look. The judge fails open: broken, or not
heard of for long, it takes no member down. Liveness asks nothing at all.
"""

import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from proxy.flights import Flights
from proxy.health import judge
from proxy.health.hearing import Hearing
from proxy.health.judge import Hysteresis, Looked, Part, State
from proxy.log import logger, public_url
from proxy.rules import Rules, RuleView
from proxy.tasks import Tasks
from proxy.upstream.state import EndpointState

log = logger("health")
JUDGE_EVERY_S: Final = 5.0
JUDGEMENT_OLD_S: Final = 60.0
PING_WITHIN_S: Final = 5.0
PING_KEPT_S: Final = 10.0
Answers = dict[str, int | str]


class Phase(enum.Enum):
    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


class Upstreams(Protocol):
    """What health reads of the upstream clients."""

    def states(self, upstream: str) -> Sequence[EndpointState]: ...

    async def ping(self, upstream: str) -> Answers: ...


class Health:
    """The judge of one member. `phase` is the server's to set."""

    def __init__(
        self,
        rules: Callable[[], Rules],
        look: Callable[[], Awaitable[Looked]],
        hearing: Hearing,
        upstreams: Upstreams,
        tasks: Tasks,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        self._rules = rules
        self._look = look
        self._hearing = hearing
        self._upstreams = upstreams
        self._monotonic = monotonic
        self._looked = Looked()
        self._looked_at: float | None = None
        self._broken: str | None = None
        self._hysteresis = Hysteresis()
        self._pings: Flights[str, Answers] = Flights(tasks, "ping")
        self._pinged: dict[str, tuple[float, Answers]] = {}
        self.phase = Phase.STARTING

    # Judging

    async def run(self, pause: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Judge again and again, until cancelled."""
        while True:
            await pause(JUDGE_EVERY_S)
            await self.judge()

    async def judge(self) -> None:
        """Look once and judge. Whatever goes wrong in here is the judge's fault, not the member's."""
        try:
            self._looked = await self._look()
            now = self._looked_at = self._monotonic()
            good = judge.worst(self._own().values()) is not State.FAILING
            was_up = self._hysteresis.is_up
            if self._hysteresis.judge(now, is_good=good) != was_up:
                log.warning("this member is up again" if good else "this member is down", troubles=self._troubles())
            self._broken = None
        except Exception as error:
            if self._broken is None:
                log.exception("the judge of health is broken; it fails open", error=repr(error))
            self._broken = type(error).__name__

    def _own(self) -> dict[str, Part]:
        return {"storage": judge.storage(self._looked, self._hearing.disk), "index": judge.index(self._looked)}

    def _troubles(self) -> list[str]:
        return [part.why for part in self._own().values() if part.why is not None]

    @property
    def _judge_trouble(self) -> str | None:
        """Why the judge's word does not count, if it does not."""
        if self._broken is not None:
            return f"the judge is broken ({self._broken}): failing open"
        if self._looked_at is not None and self._monotonic() - self._looked_at > JUDGEMENT_OLD_S:
            return "the judge has not been heard of for long: failing open"
        return None

    @property
    def is_up(self) -> bool:
        """Whether what is the member's own works, after hysteresis."""
        return self._hysteresis.is_up or self._judge_trouble is not None

    # Probes

    def live(self) -> bool:
        """The loop turns, or nobody would run this."""
        return True

    def ready(self) -> bool:
        return self.phase is Phase.SERVING and self.is_up

    def rule(self, name: str) -> bool | None:
        """Whether this member serves the rule; None if there is none of that name."""
        return None if self._view(name) is None else self.ready()

    # Reports

    def report(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        own = {**self._own(), "queue": judge.queue(self._looked)}
        own["config"] = judge.config(self._hearing.refused, self._hearing.waiting)
        upstreams, credentials = self._upstream_parts(), self._credential_parts()
        rules = self._rule_parts()
        parts = [*own.values(), *credentials.values(), *rules.values(), *(whole for whole, _ in upstreams.values())]
        told: dict[str, Any] = {"status": self._status(parts).value, "phase": self.phase.value}
        if (trouble := self._judge_trouble) is not None:
            told["judge"] = trouble
        told |= {name: part.as_json() for name, part in own.items()}
        told["upstreams"] = {
            name: {**whole.as_json(), "endpoints": {url: part.as_json() for url, part in endpoints.items()}}
            for name, (whole, endpoints) in upstreams.items()
        }
        told["credentials"] = {name: part.as_json() for name, part in credentials.items()}
        told["rules"] = {name: part.as_json() for name, part in rules.items()}
        return told

    def _status(self, parts: list[Part]) -> State:
        """Failing means: nothing is served now. A part that fails for a moment degrades until hysteresis agrees."""
        if not self.ready():
            return State.FAILING
        return State.OK if judge.worst(parts) is State.OK else State.DEGRADED

    def rule_report(self, name: str) -> dict[str, Any] | None:
        """One rule, as JSON values; None if there is none of that name. `rule` says which HTTP status goes with it."""
        view = self._view(name)
        if view is None:
            return None
        told = {"rule": name, **self._rule_parts([view])[name].as_json(), "phase": self.phase.value}
        return told if self._judge_trouble is None else {**told, "judge": self._judge_trouble}

    def rule_states(self) -> dict[str, State]:
        return {name: part.state for name, part in self._rule_parts().items()}

    async def cold(self, name: str) -> dict[str, Any] | None:
        """Whether a cold pull through this rule would work now: nothing forgiven, the upstream asked."""
        view = self._view(name)
        if view is None:
            return None
        troubles = {key: part.why for key, part in self._own().items() if part.state is not State.OK}
        if self.phase is not Phase.SERVING:
            troubles["phase"] = self.phase.value
        if self._judge_trouble is not None:
            troubles = {}
        if not view.deny:
            troubles |= await self._cold_troubles(view)
        status = State.FAILING if troubles else State.OK
        return {"rule": name, "status": status.value} | ({"troubles": troubles} if troubles else {})

    async def _cold_troubles(self, view: RuleView) -> dict[str, str | None]:
        upstream, found = upstream_of(view), dict[str, str | None]()
        credentials = self._credential_parts().get(view.credentials or "")
        if credentials is not None and credentials.state is not State.OK:
            found[f"credentials {view.credentials}"] = credentials.why
        try:
            async with asyncio.timeout(PING_WITHIN_S):
                answers = await self._ping(upstream)
        except TimeoutError:
            return {**found, f"upstream {upstream}": f"no answer within {PING_WITHIN_S:g} s"}
        except Exception as error:  # the judge's own fault: fails open
            log.exception("an upstream could not be probed", upstream=upstream, error=repr(error))
            return found
        asked = answers if view.endpoint is None else {url: answers[url] for url in answers if is_at(view, url)}
        if asked and not any(is_healthy(answer) for answer in asked.values()):
            found[f"upstream {upstream}"] = ", ".join(f"{url} answers {answer}" for url, answer in asked.items())
        return found

    async def _ping(self, upstream: str) -> Answers:
        """The endpoints' answers to `/v2/`: one probe at a time, kept for a moment."""
        kept = self._pinged.get(upstream)
        if kept is not None and self._monotonic() - kept[0] < PING_KEPT_S:
            return kept[1]
        answers = await self._pings.fly(upstream, lambda: self._upstreams.ping(upstream))
        self._pinged[upstream] = (self._monotonic(), answers)
        return answers

    # Parts

    def _view(self, name: str) -> RuleView | None:
        return self._rules().named(name)

    def _upstream_parts(self) -> dict[str, tuple[Part, dict[str, Part]]]:
        """Of every upstream: itself, and its endpoints by URL."""
        found: dict[str, tuple[Part, dict[str, Part]]] = {}
        for name, heard in self._hearing.upstreams.items():
            endpoints = dict(self._endpoint_parts(name))
            whole = judge.trouble(heard, self._monotonic(), "its last answers cannot be true")
            found[name] = judge.upstream(endpoints.values(), whole), endpoints
        return found

    def _endpoint_parts(self, upstream: str) -> Iterator[tuple[str, Part]]:
        for state in self._upstreams.states(upstream):
            yield state.url, judge.endpoint(self._hearing.endpoint(upstream, state.url), state, self._monotonic())

    def _credential_parts(self) -> dict[str, Part]:
        now, unavailable = self._monotonic(), self._looked.secrets
        return {
            name: judge.trouble(heard, now, "its last use failed", unavailable.get(name))
            for name, heard in self._hearing.credentials.items()
        }

    def _rule_parts(self, views: Iterable[RuleView] | None = None) -> dict[str, Part]:
        """Of these rules, by name; of every rule for None."""
        own, upstreams, credentials = self._own(), self._upstream_parts(), self._credential_parts()
        is_up, found = self.ready(), dict[str, Part]()
        for view in self._rules().listing() if views is None else views:
            foreign = {} if view.deny else foreign_parts(view, upstreams, credentials)
            found[view.name] = judge.rule(own, foreign, is_up=is_up)
        return found


def foreign_parts(
    view: RuleView, upstreams: Mapping[str, tuple[Part, Mapping[str, Part]]], credentials: Mapping[str, Part]
) -> dict[str, Part]:
    """What a rule needs beside the member: its upstream, or the one endpoint it is bound to, and its credentials."""
    upstream = upstream_of(view)
    whole, endpoints = upstreams.get(upstream, (judge.OK, {}))
    pinned = [part for url, part in endpoints.items() if is_at(view, url)]
    found = {f"upstream {upstream}": judge.upstream(pinned, judge.OK) if pinned else whole}
    if view.credentials is not None and view.credentials in credentials:
        found[f"credentials {view.credentials}"] = credentials[view.credentials]
    return found


def upstream_of(view: RuleView) -> str:
    """The upstream's name in `docker.io/library/*`."""
    return view.upstream.partition("/")[0]


def is_at(view: RuleView, url: str) -> bool:
    return view.endpoint is not None and public_url(view.endpoint.rstrip("/")) == url.rstrip("/")


def is_healthy(answer: int | str) -> bool:
    """Whether an answer to `/v2/` is a registry's: 401 asks for a token, which is well."""
    return isinstance(answer, int) and (answer < 400 or answer == 401)
