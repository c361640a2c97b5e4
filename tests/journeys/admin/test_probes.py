"""The admin address's probes: readiness, liveness, health, and whether a cold pull would work."""

import asyncio
import json
from pathlib import Path

import pytest

from proxy.health import Phase
from tests.support import script
from tests.support.admin import HUB
from tests.support.edge import Serving, serving
from tests.support.registry import Registry


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.DRAINING])
async def test_readiness_ends_and_liveness_does_not(server: Serving, phase: Phase) -> None:
    """While starting or draining: alive, not ready; the registry port says the same."""
    assert [(await server.ask(path)).status for path in ("/livez", "/readyz")] == [200, 200]
    assert [await server.pull(path) for path in ("/-/live", "/-/ready", f"/-/rules/{HUB}")] == [200, 200, 200]
    server.edge.health.phase = phase
    assert [(await server.ask(path)).status for path in ("/livez", "/readyz")] == [200, 503]
    assert (await server.ask("/readyz")).json == {"status": phase.value}
    assert [await server.pull(path) for path in ("/-/live", "/-/ready", f"/-/rules/{HUB}")] == [200, 503, 503]
    assert (await server.ask(f"/health/rules/{HUB}")).status == 503


async def test_health_has_a_part_for_everything(server: Serving) -> None:
    """Storage, index, queue, upstreams with their endpoints, credentials, rules, and how late the loop runs."""
    told = (await server.ask("/health")).json
    assert told["status"] == "ok"
    assert set(told) == {
        "status", "phase", "storage", "index", "queue", "config", "upstreams", "credentials", "rules",
        "loop_lag_seconds",
    }  # fmt: skip
    assert list(told["rules"]) == [HUB]


async def test_an_upstream_that_is_away_degrades_and_fails_nobody(server: Serving, registry: Registry) -> None:
    """The rule stays 200 with `degraded` for held content flows; its cold form fails, and is well again after."""
    assert (await server.ask(f"/health/rules/{HUB}?cold=1")).json == {"rule": HUB, "status": "ok"}
    await registry.stop()
    for number in range(5):
        assert await server.pull(f"/v2/{HUB}/team/app/manifests/{number}") == 503
    told = await server.ask(f"/health/rules/{HUB}")
    assert (told.status, told.json["status"]) == (200, "degraded")
    assert await server.pull(f"/-/rules/{HUB}") == 200
    assert (await server.ask("/readyz")).status == 200
    assert await server.metric("cistern_breaker_open", upstream=HUB) == 1.0
    assert await server.metric("cistern_rule_state", rule=HUB) == 1.0


async def test_a_cold_probe_asks_the_upstream(server: Serving, registry: Registry) -> None:
    """An upstream that answers with errors: 503 in the strict form, 200 in the other."""
    registry.script("/v2/", script.error(500))
    told = await server.ask(f"/health/rules/{HUB}?cold=1")
    assert (told.status, told.json["status"]) == (503, "failing")
    assert "answers 500" in told.json["troubles"][f"upstream {HUB}"]
    assert (await server.ask(f"/health/rules/{HUB}")).status == 200


async def test_many_cold_probes_cost_the_upstream_one(server: Serving, registry: Registry) -> None:
    """However many ask, and on whichever address: one `GET /v2/` at a time, and none for what is not strict (T18)."""
    gate = registry.hold_headers("/v2/")
    cold = [asyncio.create_task(server.ask(f"/health/rules/{HUB}?cold=1")) for _ in range(100)]
    await gate.reached()
    assert {await server.pull(f"/-/rules/{HUB}") for _ in range(20)} == {200}
    assert {(await server.ask(f"/health/rules/{HUB}")).status for _ in range(20)} == {200}
    gate.open()
    assert {answer.status for answer in await asyncio.gather(*cold)} == {200}
    assert {(await server.ask(f"/health/rules/{HUB}?cold=1")).status for _ in range(20)} == {200}
    assert [request.path for request in registry.requests] == ["/v2/"]


async def test_a_web_page_is_no_registry(server: Serving, registry: Registry) -> None:
    """HTML with status 200 on `/v2/` is judged as what it is."""
    registry.script("/v2/", script.html())
    told = await server.ask(f"/health/rules/{HUB}?cold=1")
    assert told.status == 503
    assert "answers not_a_registry" in told.json["troubles"][f"upstream {HUB}"]


async def test_a_dead_first_endpoint_hides_no_second(cache_dir: Path, registry: Registry) -> None:
    """Endpoints are asked at once: one that never answers does not use up the time of the other."""
    async with Registry() as other:
        upstream = {
            "endpoints": [{"url": registry.url}, {"url": other.url}],
            "plain_http": True,
            "proxy": "none",
        }
        async with serving(f"upstreams: {json.dumps({HUB: upstream})}", cache_dir) as server:
            gates = [registry.hold_headers("/v2/"), other.hold_headers("/v2/")]
            asking = asyncio.ensure_future(server.ask(f"/health/rules/{HUB}?cold=1"))
            for gate in gates:
                await gate.reached()  # both of them, before either has answered
            gates[1].open()
            gates[0].open()
            assert (await asking).status == 200


async def test_a_probe_of_no_rule_is_404(server: Serving) -> None:
    """A name that no rule has, however it is written, is not found; nothing is asked for it."""
    for name in ("nope", "nope%2fx", "..", "%00", "x" * 1000):
        told = await server.ask(f"/health/rules/{name}")
        assert (told.status, told.code) == (404, "path_unknown")
        assert (await server.ask(f"/health/rules/{name}?cold=1")).status == 404
