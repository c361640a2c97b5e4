"""A health room with upstreams, a disk and a clock that a test sets."""

import asyncio
from typing import Any

from proxy.config import CredentialConfig, parse
from proxy.health import Health, Hearing, Phase
from proxy.health.judge import Looked
from proxy.oci import Digest
from proxy.rules import Rules
from proxy.tasks import Tasks
from proxy.upstream.session import UpstreamCall
from proxy.upstream.state import EndpointState, Throttled
from tests.support.clock import Clock

URL = "http://127.0.0.1:9"
OTHER_URL = "http://127.0.0.1:10"
CONFIG = f"""
upstreams:
  one.test: {{plain_http: true, endpoints: [{{url: "{URL}"}}, {{url: "{OTHER_URL}"}}]}}
  two.test: {{endpoints: [{{url: "https://two.test"}}], credentials: team}}
credentials:
  team: {{username: me, password: {{env: TEAM}}}}
rules:
  - {{name: pinned, repository: pin/*, upstream: one.test/pin/*, endpoint: "{URL}"}}
  - {{name: denied, upstream: one.test/evil/*, deny: true}}
"""
DIGEST = Digest.of(b"x")
GATES = (Throttled(None, "requests", 40.0),)


def standing(url: str = URL, circuit: str = "closed", **facts: Any) -> EndpointState:
    """An endpoint of which nothing is known but `facts`."""
    nothing: dict[str, Any] = {
        "open_for_s": None, "next_probe_s": None, "last_fault": None, "last_break": None, "answered_ago_s": None,
        "throttled": (), "quotas": (),
    }  # fmt: skip
    return EndpointState(url=url, circuit=circuit, **{**nothing, **facts})


def call(outcome: str, quota: int | None = None) -> UpstreamCall:
    return UpstreamCall("one.test", URL, "manifest", outcome, 0.01, 0, quota)


class Upstreams:
    """Upstreams whose answers to a ping the test sets; it counts the pings."""

    def __init__(self) -> None:
        self.fixed = {"one.test": [standing(URL), standing(OTHER_URL)], "two.test": [standing("https://two.test")]}
        self.answers: dict[str, int | str] = {}
        self.pings = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    def states(self, upstream: str) -> list[EndpointState]:
        return self.fixed[upstream]

    async def ping(self, upstream: str) -> dict[str, int | str]:
        self.pings += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return {state.url: self.answers.get(state.url, 401) for state in self.fixed[upstream]}


class Site:
    """A Health over what the test says was found."""

    def __init__(self, clock: Clock, tasks: Tasks) -> None:
        self.clock = clock
        self.looked = Looked()
        self.error: Exception | None = None
        self.upstreams = Upstreams()
        config = parse(CONFIG, "test.yaml", {})
        self.rules = Rules(config)
        self.hearing = Hearing(config.upstreams, config.credentials, monotonic=clock)
        self.health = Health(lambda: self.rules, self._look, self.hearing, self.upstreams, tasks, monotonic=clock)
        self.health.phase = Phase.SERVING

    async def _look(self) -> Looked:
        if self.error is not None:
            raise self.error
        return self.looked

    async def judge(self, times: int = 1) -> None:
        for _ in range(times):
            await self.health.judge()
            self.clock.advance(8)

    def status(self, rule: str) -> str:
        told = self.health.rule_report(rule)
        assert told is not None
        return str(told["status"])

    async def cold(self, rule: str) -> dict[str, Any]:
        told = await self.health.cold(rule)
        assert told is not None
        return told


def credentials() -> dict[str, CredentialConfig]:
    return dict(parse(CONFIG, "test.yaml", {}).credentials)
