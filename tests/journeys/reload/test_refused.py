"""What a reload refuses, or leaves for a restart, is told by its name; the old configuration stays."""

import pytest
from structlog.testing import capture_logs

from tests.support import images
from tests.support.images import Blob
from tests.support.leaks import Canaries
from tests.support.registry import Registry
from tests.support.reloading import Reloading
from tests.support.rewritten import APP, HUB, SIZE, health, text, upstream

# What is refused


BAD = {
    "a broken file": ("upstreams: {hub.test: [}", "1: "),
    "an unknown key": ("upstreams: {hub.test: {}}\nregsitry: {}\n", "2: regsitry: unknown key, did you mean registry?"),
    "a rule that leads nowhere": (
        "upstreams: {hub.test: {}}\nrules:\n  - {name: a, upstream: nowhere.test/*}\n",
        "3: rules.0.upstream: there is no upstream nowhere.test",
    ),
    "a bad pattern": (
        "upstreams: {hub.test: {}}\nrules:\n  - {name: a, upstream: hub.test/a*b}\n",
        "3: rules.0.upstream: may have one *",
    ),
    "an authority that is not there": ("upstreams: {hub.test: {tls: {ca: /none.pem}}}\n", "/none.pem: tls.ca: no cert"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_file_keeps_the_old_configuration(
    server: Reloading, registry: Registry, layer: Blob, name: str
) -> None:
    """No request is dropped; the problem stands in health and in the metric until a good file comes (F28)."""
    bad, problem = BAD[name]
    gate = registry.hold(layer.digest, after_bytes=SIZE // 2)
    pulling = await server.start(f"{APP}/blobs/{layer.digest}")
    await gate.reached()
    assert await server.metric("cistern_config_reload_ok") == 1
    assert not await server.take(bad)
    assert await server.pull(f"{APP}/manifests/1") == 200
    assert await server.metric("cistern_config_reload_ok") == 0
    told = await health(server)
    assert (told["status"], told["config"]["status"]) == ("degraded", "degraded")
    assert any(problem in line for line in told["config"]["problems"])
    assert (await server.ask("/readyz")).status == 200
    gate.open()
    assert await pulling.rest() == layer.data
    assert await server.take(text(registry))
    assert await server.metric("cistern_config_reload_ok") == 1
    assert (await health(server))["config"] == {"status": "ok"}


async def test_every_problem_is_told_at_once(server: Reloading) -> None:
    """As `cistern check` does: file, line and key of each."""
    assert not await server.take("registry: {drain: 1x}\ncache: {max_size: 0B}\n")
    problems = (await health(server))["config"]["problems"]
    assert [problem.split(" ")[0:2] for problem in problems] == [
        [f"{server.path}:1:", "registry.drain:"],
        [f"{server.path}:2:", "cache.max_size:"],
    ]


async def test_a_secret_in_the_wrong_place_is_told_nowhere(
    server: Reloading, registry: Registry, canaries: Canaries
) -> None:
    """Neither in health nor in the log, wherever in the file it was put; nor is one that a good file points to."""
    secret = canaries.secret("literal")
    misplaced = [
        f"credentials: {{team: {{username: me, password: {secret}}}}}",
        f"credentials: {{team: {{username: me, password: {{env: X, file: {secret}}}}}}}",
        f"registry: {{drain: {secret}}}",
        f"upstreams: {{hub.test: {{endpoints: [{{url: 'https://me:{secret}@hub.test'}}]}}}}",
        f"credentials: {{team: {{username: me, password: '{secret}",
    ]
    password = server.path.with_name("password")
    password.write_text(secret)
    sections = {"credentials": {"team": {"username": "me", "password": {"file": str(password)}}}}
    with capture_logs() as lines:
        for bad in misplaced:
            assert not await server.take(bad)
            canaries.assert_absent((await server.ask("/health")).text)
        assert await server.take(text(registry, {"credentials": "team"}, **sections))
        canaries.assert_absent((await server.ask("/health")).text, (await server.ask("/api/v1/upstreams")).text)
    assert [line["event"] for line in lines].count("config taken over") == 1
    canaries.assert_absent(repr(lines))


async def test_an_upstream_that_cannot_be_reached_is_no_bad_configuration(
    server: Reloading, registry: Registry
) -> None:
    """It is taken, and nothing is dialled for it; the one that works goes on working."""
    away = {"endpoints": [{"url": "http://127.0.0.1:9"}], "plain_http": True}
    assert await server.take(text(registry, upstreams={HUB: upstream(registry), "away.test": away}))
    assert await server.pull("/v2/away.test/x/manifests/1") == 503
    assert await server.pull(f"{APP}/manifests/none") == 404


# What needs a restart


async def test_a_key_that_cannot_change_keeps_its_value_and_is_named(server: Reloading, registry: Registry) -> None:
    """All else of the file is taken over; the key is no longer named once the file has the running value again."""
    name = server.rooms.config.registry.name
    assert await server.take(text(registry, registry={"name": "another", "drain": "7s"}, implicit_rules=False))
    config = server.rooms.config
    assert (config.registry.name, config.registry.drain_s, config.implicit_rules) == (name, 7.0, False)
    assert (await health(server))["config"] == {"status": "ok", "restart_needed_for": ["registry.name"]}
    assert await server.take(text(registry))
    assert (await health(server))["config"] == {"status": "ok"}


async def test_another_concurrency_counts_at_once(server: Reloading, registry: Registry) -> None:
    """More images are hydrated beside the one that is at work; fewer let those go on."""
    pictures = [registry.add(f"team/{n}", "1", images.manifest(images.blob(500 + n), images.blob(SIZE, seed=n + 7)))
                for n in range(2)]  # fmt: skip
    gates = [registry.hold(picture.layers[1].digest, after_bytes=1000) for picture in pictures]
    assert await server.take(text(registry, hydrate={"concurrency": 1}))
    for number, picture in enumerate(pictures):
        for path in (f"manifests/{picture.digest}", f"blobs/{picture.layers[0].digest}"):
            assert await server.pull(f"/v2/{HUB}/team/{number}/{path}") == 200
    await server.rooms.hydrate.heard()
    await gates[0].reached()
    assert registry.requests_for(pictures[1].layers[1].digest) == 0
    assert await server.take(text(registry, hydrate={"concurrency": 2}))
    await gates[1].reached()
    assert await server.take(text(registry, hydrate={"concurrency": 1}))
    for gate in gates:
        gate.open()
    await server.rooms.hydrate.finished()
    assert {job.state for job in await server.rooms.ground.index.jobs("done")} == {"done"}
