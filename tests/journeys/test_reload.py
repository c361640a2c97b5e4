"""Another configuration while pulls run: nobody loses a byte, and the next request sees it."""

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from proxy.events import ConfigTaken
from tests.support import images
from tests.support.images import Blob, Image
from tests.support.leaks import Canaries
from tests.support.realm import Bearer, Realm
from tests.support.registry import Registry
from tests.support.reloading import Reloading, reloading

HUB = "hub.test"
APP = f"/v2/{HUB}/team/app"
SIZE = 300_000
CLIENTS = 8


def upstream(registry: Registry, **keys: Any) -> dict[str, Any]:
    return {
        "endpoints": [{"url": registry.url}],
        "plain_http": True,
        "allow_insecure_credentials": True,
        "proxy": "none",
        **keys,
    }


def text(registry: Registry, hub: dict[str, Any] | None = None, /, **sections: Any) -> str:
    """A configuration with one upstream, `hub.test`; `sections` come beside it, or in its place."""
    return yaml.safe_dump({"upstreams": {HUB: upstream(registry, **(hub or {}))}, **sections})


@pytest.fixture
async def server(short_tmp: Path, registry: Registry) -> AsyncIterator[Reloading]:
    async with reloading(text(registry), short_tmp) as running:
        yield running


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add("team/app", "1", images.manifest(images.blob(SIZE)))


@pytest.fixture
def layer(image: Image) -> Blob:
    return image.layers[0]


async def health(server: Reloading) -> Any:
    return (await server.ask("/health")).json


# What is taken over


async def test_the_next_request_sees_the_new_rules(server: Reloading, registry: Registry, image: Image) -> None:
    """A denial, a block list, a new rule and a new upstream: each counts from the next request on."""
    other = {"other.test": upstream(registry)}
    assert await server.pull(f"{APP}/manifests/1") == 200
    assert await server.take(text(registry, rules=[{"name": "no", "upstream": f"{HUB}/team/*", "deny": True}]))
    assert await server.pull(f"{APP}/manifests/1") == 403
    assert await server.take(text(registry, block=[str(image.digest)]))
    assert await server.pull(f"{APP}/manifests/1") == 403
    assert await server.take(
        text(registry, rules=[{"name": "own", "repository": "own/*", "upstream": f"{HUB}/team/*"}])
    )
    assert [await server.pull(f"/v2/{path}/manifests/1") for path in ("own/app", f"{HUB}/team/app")] == [200, 200]
    assert await server.pull("/v2/other.test/team/app/manifests/1") == 404
    assert await server.take(text(registry, upstreams={HUB: upstream(registry), **other}))
    assert await server.pull("/v2/other.test/team/app/manifests/1") == 200
    assert list((await health(server))["upstreams"]) == [HUB, "other.test"]
    assert await server.take(text(registry, upstreams=other))
    assert await server.pull(f"{APP}/manifests/1") == 404
    assert list((await health(server))["upstreams"]) == ["other.test"]


async def test_limits_and_policies_are_taken_over(server: Reloading, registry: Registry, layer: Blob) -> None:
    """A smaller `max_blob`, and a tag that is not fresh any more."""
    assert await server.pull(f"{APP}/manifests/1") == 200
    assert await server.take(text(registry, limits={"max_blob": "1KB"}, tags={"fresh_for": "0s"}))
    asked = len(registry.requests)
    assert await server.pull(f"{APP}/manifests/1") == 200
    assert len(registry.requests) == asked + 1
    assert await server.pull(f"{APP}/blobs/{layer.digest}") == 502


@pytest.mark.parametrize("clients", [1, CLIENTS])
async def test_running_pulls_end_as_they_began(
    server: Reloading, registry: Registry, layer: Blob, clients: int
) -> None:
    """Their rule denied, then their upstream removed: each gets every byte, from one transfer."""
    gate = registry.hold(layer.digest, after_bytes=SIZE // 2)
    pulls = [await server.start(f"{APP}/blobs/{layer.digest}") for _ in range(clients)]
    await gate.reached()
    assert [await pulling.head() for pulling in pulls] == [200] * clients
    assert await server.take(text(registry, rules=[{"name": "no", "upstream": f"{HUB}/*", "deny": True}]))
    assert await server.pull(f"{APP}/blobs/{layer.digest}") == 403
    assert await server.take(text(registry, upstreams={"other.test": upstream(registry)}))
    assert await server.pull(f"{APP}/blobs/{layer.digest}") == 404
    gate.open()
    bodies = await asyncio.gather(*(pulling.rest() for pulling in pulls))
    assert all(body == layer.data for body in bodies)
    assert registry.requests_for(layer.digest) == 1


@pytest.mark.parametrize("is_held", [True, False], ids=["stored", "filling"])
@pytest.mark.parametrize("clients", [1, CLIENTS])
async def test_a_blocked_digest_is_cut_at_once(
    server: Reloading, registry: Registry, clients: int, is_held: bool
) -> None:
    """Also where it is being sent, stored or not; another blob that is being sent goes on."""
    large = registry.add_blob("team/app", images.blob(24 << 20))
    other = registry.add_blob("team/app", images.blob(SIZE, seed=5))
    if is_held:
        assert await server.pull(f"{APP}/blobs/{large.digest}") == 200
        await server.rooms.downloads.idle()
    else:
        registry.hold(large.digest, after_bytes=1 << 20)
    gate = registry.hold(other.digest, after_bytes=SIZE // 2)
    pulls = [await server.start(f"{APP}/blobs/{large.digest}") for _ in range(clients)]
    kept = await server.start(f"{APP}/blobs/{other.digest}")
    for pulling in pulls:
        assert await pulling.head() == 200
        await pulling.read(100_000)
    await gate.reached()
    assert await server.take(text(registry, block=[str(large.digest)]))
    for pulling in pulls:
        with pytest.raises(ConnectionError):
            await pulling.rest()
    assert await server.pull(f"{APP}/blobs/{large.digest}") == 403
    gate.open()
    assert await kept.rest() == other.data
    await server.rooms.downloads.idle()
    if not is_held:
        assert server.rooms.disk.blobs.path_of(large.digest).exists() is False


async def test_who_waits_for_a_digest_that_is_blocked_is_told(server: Reloading, registry: Registry) -> None:
    """Nothing was sent yet: a true 403, and the connection goes on."""
    wanted = registry.add_blob("team/app", images.blob(SIZE))
    gate = registry.hold_headers(wanted.digest)
    pulling = await server.start(f"{APP}/blobs/{wanted.digest}")
    await gate.reached()
    assert await server.take(text(registry, block=[str(wanted.digest)]))
    assert await pulling.head() == 403
    assert b"DENIED" in await pulling.rest()
    await server.rooms.downloads.idle()


async def test_a_removed_rule_in_use_ends_its_hydration_visibly(
    server: Reloading, registry: Registry, layer: Blob
) -> None:
    """Its pulls end whole; what it had queued is failed, and says why."""
    own = [{"name": "own", "repository": "own/*", "upstream": f"{HUB}/team/*"}]
    assert await server.take(text(registry, rules=own))
    gate = registry.hold(layer.digest, after_bytes=SIZE // 2)
    assert await server.pull("/v2/own/app/manifests/1") == 200
    pulling = await server.start(f"/v2/own/app/blobs/{layer.digest}")
    await gate.reached()
    assert await server.take(text(registry))
    assert await server.pull(f"/v2/own/app/blobs/{layer.digest}") == 404
    gate.open()
    assert await pulling.rest() == layer.data
    assert (await server.ask("/health/rules/own")).status == 404


@pytest.mark.parametrize("clients", [1, CLIENTS])
async def test_a_rotated_password_is_used_by_the_next_request(
    short_tmp: Path, registry: Registry, layer: Blob, clients: int
) -> None:
    """The old token is dropped, and one new one fetched for all; while the file is half written the old password still
    serves; a stream that runs ends whole (F29).
    """
    password = short_tmp / "password"
    password.write_text("first")
    sections = {"credentials": {"team": {"username": "me", "password": {"file": str(password)}}}}
    async with Realm() as realm:
        realm.users, realm.private, registry.authority = {"me": "first"}, {"team/app"}, Bearer(realm)
        before = text(registry, {"credentials": "team"}, tags={"fresh_for": "0s"}, **sections)
        async with reloading(before, short_tmp) as server:
            assert await server.pull(f"{APP}/manifests/1") == 200
            password.write_text("")
            assert await server.take(before)
            assert await server.pull(f"{APP}/manifests/1") == 200
            gate = registry.hold(layer.digest, after_bytes=SIZE // 2)
            pulls = [await server.start(f"{APP}/blobs/{layer.digest}") for _ in range(clients)]
            await gate.reached()
            issued = realm.issued
            password.write_text("second")
            realm.users = {"me": "second"}
            assert await server.take(before)
            asked = (server.pull(f"{APP}/manifests/1") for _ in range(clients))
            assert set(await asyncio.gather(*asked)) == {200}
            assert realm.issued == issued + 1
            gate.open()
            assert [await pulling.rest() for pulling in pulls] == [layer.data] * clients


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


# Many at once


async def test_two_reloads_at_once_end_with_the_last_file(
    server: Reloading, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asks while one runs asks for exactly one more; never two beside each other."""
    reading, go_on, loads = threading.Event(), threading.Event(), list[float]()
    source = server.reload._source
    load = source.load

    def slow() -> Any:
        loaded = load()
        loads.append(loaded.tags.fresh_for_s)
        reading.set()
        assert go_on.wait(20)
        return loaded

    monkeypatch.setattr(source, "load", slow)
    running = asyncio.create_task(server.reload.run())
    server.write(text(registry, tags={"fresh_for": "1s"}))
    server.asked.set()
    await asyncio.to_thread(reading.wait, 20)
    for seconds in (2, 3):
        server.write(text(registry, tags={"fresh_for": f"{seconds}s"}))
        server.asked.set()
    taken = asyncio.Event()
    server.rooms.events.listen(ConfigTaken, lambda _event: taken.set())
    go_on.set()
    while server.rooms.config.tags.fresh_for_s != 3.0:
        taken.clear()
        await taken.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert loads == [1.0, 3.0]


async def test_requests_during_reloads_are_never_dropped(server: Reloading, registry: Registry, image: Image) -> None:
    """Eight clients pull again and again while two configurations and a bad one take turns: each answer is of a good
    one, whole.
    """
    assert await server.pull(f"{APP}/manifests/1") == 200
    open_, closed = text(registry), text(registry, rules=[{"name": "no", "upstream": f"{HUB}/*", "deny": True}])
    done = asyncio.Event()

    async def client() -> set[int]:
        statuses = set()
        while not done.is_set():
            statuses.add(await server.pull(f"{APP}/manifests/1"))
        return statuses

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    for _ in range(8):
        for configuration, is_good in ((closed, True), ("nonsense: 1", False), (open_, True)):
            assert await server.take(configuration) is is_good
    done.set()
    assert set().union(*await asyncio.gather(*clients)) <= {200, 403}
    assert await server.pull(f"{APP}/manifests/1") == 200


async def test_the_old_rules_leave_memory(server: Reloading, registry: Registry, image: Image) -> None:
    """Once somebody has asked by the new ones: what was remembered of earlier requests holds none of them."""
    blobs = [f"{APP}/blobs/{part.digest}" for part in image.blobs]
    targets = [f"{APP}/manifests/1", f"{APP}/manifests/{image.digest}", *blobs]
    old = []
    for seconds in range(1, 5):
        for target in targets * 2:
            assert await server.pull(target) == 200
        await server.rooms.downloads.idle()
        old.append(weakref.ref(server.rooms.current.rules))
        assert await server.take(text(registry, tags={"fresh_for": f"{seconds}s"}))
    assert await server.pull(targets[0]) == 200
    gc.collect()
    assert [rules() for rules in old] == [None] * 4
