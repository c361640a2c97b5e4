"""The admin address and the control socket over real sockets: probes, metrics, reading, and the right to change."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from proxy.health import Phase
from tests.support import script
from tests.support.damage import flip_a_bit, silently
from tests.support.edge import Serving, serving
from tests.support.images import Image, blob, manifest
from tests.support.leaks import Canaries
from tests.support.registry import Registry

HUB = "hub.test"
TOKEN = "a-token-of-the-test"


def config(registry: Registry, extra: str = "") -> str:
    upstream = {
        "endpoints": [{"url": registry.url}],
        "plain_http": True,
        "proxy": "none",
        "timeouts": {"connect": "1s", "headers": "1s", "stall": "1s"},
    }
    return f"upstreams: {json.dumps({HUB: upstream})}\n{extra}"


@pytest.fixture
async def server(cache_dir: Path, registry: Registry) -> AsyncIterator[Serving]:
    async with serving(config(registry), cache_dir, {"CISTERN_ADMIN_TOKEN": TOKEN}) as running:
        yield running


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add("team/app", "1", manifest(blob(100_000), blob(500, seed=1)))


async def pulled(server: Serving, image: Image) -> None:
    """Pull an image's manifest and blobs; return once its hydration has ended too."""
    assert await server.pull(f"/v2/{HUB}/team/app/manifests/1") == 200
    for part in image.blobs:
        assert await server.pull(f"/v2/{HUB}/team/app/blobs/{part.digest}") == 200
    await server.rooms.hydrate.finished()  # no event would tell: an image that is whole already makes no job
    await server.rooms.downloads.idle()


# Probes


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


# Reading


async def test_a_pull_is_seen_everywhere(server: Serving, registry: Registry, image: Image) -> None:
    """The image is listed whole, its bytes are counted, its hydration is done, and the metrics agree."""
    await pulled(server, image)
    [listed] = (await server.ask("/api/v1/images")).json["images"]
    assert (listed["digest"], listed["complete"]) == (str(image.digest), True)
    size = sum(part.size for part in (*image.all_manifests(), *image.all_blobs()))
    usage = (await server.ask("/api/v1/usage")).json
    assert usage["bytes"] == size
    assert usage["limit_bytes"] == await server.metric("cistern_cache_max_bytes")
    [job] = (await server.ask("/api/v1/hydrations?state=done")).json["hydrations"]
    assert (job["rule"], job["manifest"], job["error"]) == (HUB, str(image.digest), None)
    assert (await server.ask("/api/v1/hydrations?state=queued")).json == {"hydrations": []}
    taken = await server.metric("cistern_cache_bytes")
    assert taken is not None
    assert size <= taken <= usage["used_bytes"]
    assert await server.metric("cistern_requests_total", rule=HUB, kind="manifest", outcome="miss") == 1.0
    assert await server.metric("cistern_sent_bytes_total", rule=HUB) == size
    assert await server.metric("cistern_upstream_received_bytes_total", upstream=HUB) == size
    assert await server.metric("cistern_hydrations_total", result="done") == 1.0
    assert await server.metric("cistern_downloads_running") == 0.0


async def test_rules_and_upstreams_are_told(cache_dir: Path, registry: Registry) -> None:
    """Rules in the order they match with their tag policy, upstreams with their endpoints; endless is `forever`."""
    extra = "rules: [{name: team, repository: t/*, upstream: hub.test/team/*, tags: {fresh_for: 5m}}]"
    async with serving(config(registry, extra), cache_dir) as server:
        rules = (await server.ask("/api/v1/rules")).json["rules"]
        assert [rule["name"] for rule in rules] == ["team", HUB]
        assert (rules[0]["tags"]["fresh_for_s"], rules[0]["tags"]["stale_for_s"]) == (300.0, "forever")
        assert {rule["status"] for rule in rules} == {"ok"}
        [upstream] = (await server.ask("/api/v1/upstreams")).json["upstreams"]
        assert (upstream["name"], upstream["status"], list(upstream["endpoints"])) == (HUB, "ok", [registry.url])


async def test_a_pull_is_explained(server: Serving, image: Image) -> None:
    """The rule, the upstream and what is here."""
    told = (await server.ask(f"/api/v1/explain?reference={HUB}/team/app:1")).json
    assert (told["works"], told["route"]["rule"]) == (True, HUB)


async def test_a_lying_upstream_is_counted_and_told(server: Serving, registry: Registry, image: Image) -> None:
    """A body that is not kept has its reason in the log, in the metric and in health."""
    part = image.blobs[0]
    registry.script(part.digest, script.spoil())
    with capture_logs() as lines:
        assert await server.pull(f"/v2/{HUB}/team/app/blobs/{part.digest}") == 502
    assert await server.metric("cistern_not_stored_total", reason="wrong_digest") == 1.0
    assert await server.metric("cistern_integrity_failures_total", where="upstream") == 1.0
    assert [line["reason"] for line in lines if line["event"] == "not stored"] == ["wrong_digest"]
    assert len([line for line in lines if line["event"] == "request"]) == 1
    assert (await server.ask("/health")).json["upstreams"][HUB]["status"] == "degraded"


@pytest.mark.parametrize(
    ("path", "method", "status", "code"),
    [
        ("/", "GET", 404, "path_unknown"),
        ("/api/v1/", "GET", 404, "path_unknown"),
        ("/api/v1/verify", "DELETE", 405, "method_unsupported"),
        ("/api/v1/export", "GET", 404, "path_unknown"),
        ("/api/v2/rules", "GET", 404, "path_unknown"),
        ("/metrics/../livez", "GET", 404, "path_unknown"),
        ("/%6civez", "GET", 404, "path_unknown"),
        ("//livez", "GET", 404, "path_unknown"),
        ("/debug/pprof", "GET", 404, "path_unknown"),
        ("/livez", "POST", 405, "method_unsupported"),
        ("/api/v1/rules", "DELETE", 405, "method_unsupported"),
        ("/api/v1/evict", "GET", 405, "method_unsupported"),
        ("/api/v1/explain", "GET", 400, "name_invalid"),
        ("/api/v1/explain?reference=A//b", "GET", 400, "name_invalid"),
        ("/api/v1/images?reference=../x", "GET", 400, "name_invalid"),
        ("/api/v1/hydrations?state=odd", "GET", 400, "name_invalid"),
        ("/livez?" + "x" * 5000, "GET", 400, "name_invalid"),
    ],
)
async def test_what_is_not_served_is_refused_in_json(
    server: Serving, path: str, method: str, status: int, code: str
) -> None:
    """Every error of the admin address is JSON with a bounded code."""
    pulling = await raw(server, f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
    assert pulling == (status, code)


async def raw(server: Serving, request: str) -> tuple[int, str]:
    """Status and error code of a request that no client library rewrote."""
    host, _, port = server.edge.admin.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        body = json.loads(await reader.readexactly(int(length.partition(b":")[2])))
        return int(head.split()[1]), str(body["errors"][0]["code"])
    finally:
        writer.close()
        await writer.wait_closed()


async def test_head_is_answered_without_a_body(server: Serving) -> None:
    """Probes may ask by HEAD."""
    told = await server.ask("/readyz", method="HEAD")
    assert (told.status, told.text) == (200, "")


# Changing


NO_RIGHT = {
    "nothing": {},
    "a wrong token": {"Authorization": "Bearer wrong"},
    "more than the token": {"Authorization": f"Bearer {TOKEN}x"},
    "less than the token": {"Authorization": f"Bearer {TOKEN[:-1]}"},
    "an empty token": {"Authorization": "Bearer "},
    "bytes": {"Authorization": "Bearer \u00ff\u00fe"},
    "another scheme": {"Authorization": f"Basic {TOKEN}"},
    "no scheme": {"Authorization": TOKEN},
}


@pytest.mark.parametrize("deed", ["evict", "refresh"])
async def test_the_admin_address_changes_nothing_without_the_token(server: Serving, image: Image, deed: str) -> None:
    """403 for everybody else, and what was here still is."""
    await pulled(server, image)
    for what, headers in NO_RIGHT.items():
        told = await server.ask(f"/api/v1/{deed}", method="POST", body={"reference": f"{HUB}/team/app:1"}, **headers)
        assert (what, told.status, told.code) == (what, 403, "denied")
        assert TOKEN not in told.text
    assert len((await server.ask("/api/v1/images")).json["images"]) == 1


@pytest.mark.parametrize("token", [None, ""])
async def test_without_a_token_set_no_token_is_good(cache_dir: Path, registry: Registry, token: str | None) -> None:
    """Not even an empty one: an unset variable opens nothing."""
    environ = {} if token is None else {"CISTERN_ADMIN_TOKEN": token}
    async with serving(config(registry), cache_dir, environ) as server:
        for given in ("", "None", "null"):
            headers = {"Authorization": f"Bearer {given}"}
            told = await server.ask("/api/v1/evict", method="POST", body={"reference": "x"}, **headers)
            assert told.status == 403


async def test_an_image_is_evicted_over_the_control_socket(server: Serving, image: Image) -> None:
    """It is gone from the store, its bytes are counted, and a second time there is nothing to evict."""
    await pulled(server, image)
    told = await server.control("/api/v1/evict", body={"reference": f"{HUB}/team/app:1"})
    size = sum(part.size for part in (*image.all_manifests(), *image.all_blobs()))
    assert (told.status, told.json["bytes"]) == (200, size)
    assert (await server.ask("/api/v1/images")).json == {"images": []}
    assert await server.metric("cistern_evicted_bytes_total") == size
    again = await server.control("/api/v1/evict", body={"reference": f"{HUB}/team/app:1"})
    assert again.status == 404


async def test_a_tag_is_refreshed_with_the_token(server: Serving, registry: Registry, image: Image) -> None:
    """It is checked now, however fresh it is; a moved one says so."""
    await pulled(server, image)
    asked = {"reference": f"{HUB}/team/app:1"}
    headers = {"Authorization": f"Bearer {TOKEN}"}
    same = (await server.ask("/api/v1/refresh", method="POST", body=asked, **headers)).json
    assert (same["digest"], same["moved"]) == (str(image.digest), False)
    other = registry.add("team/app", "1", manifest(blob(700, seed=9)))
    moved = (await server.control("/api/v1/refresh", body=asked)).json
    assert (moved["digest"], moved["moved"], moved["rule"]) == (str(other.digest), True, HUB)
    registry.add("team/app", "new", image)
    first = (await server.control("/api/v1/refresh", body={"reference": f"{HUB}/team/app:new"})).json
    assert (first["digest"], "moved" in first) == (str(image.digest), False)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="no JSON"),
        pytest.param(b"[]", id="a list"),
        pytest.param({"reference": 1}, id="a number"),
        pytest.param({"reference": "a", "force": True}, id="an unknown key"),
        pytest.param({"reference": "A//b"}, id="no reference"),
        pytest.param({"reference": f"{HUB}/team/app@sha256:zz"}, id="no digest"),
        pytest.param(b'{"reference": "' + b"x" * 100_000 + b'"}', id="too long"),
    ],
)
@pytest.mark.parametrize("deed", ["evict", "refresh"])
async def test_a_bad_body_is_refused(server: Serving, registry: Registry, deed: str, body: Any) -> None:
    """400 in JSON; nothing is asked upstream."""
    told = await server.control(f"/api/v1/{deed}", body=body)
    assert told.status == 400
    assert told.code in ("name_invalid", "digest_invalid")
    assert registry.requests == []


async def test_an_upstreams_failure_is_told_to_who_refreshes(server: Serving, registry: Registry) -> None:
    """503 and its reason, not an internal error."""
    await registry.stop()
    told = await server.control("/api/v1/refresh", body={"reference": f"{HUB}/team/app:1"})
    assert (told.status, told.code) == (503, "upstream_unavailable")


async def test_the_control_socket_is_its_owners_alone(server: Serving) -> None:
    """Mode 0600 in a directory of mode 0700, and gone when the server ended."""
    path = Path(server.edge.control.url.removeprefix("unix:"))
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700
    assert path.parent == server.rooms.disk.directory.root
    assert path.name == "control.sock"


async def test_no_secret_is_told(cache_dir: Path, registry: Registry, canaries: Canaries, image: Image) -> None:
    """Neither a password nor the admin token stands in health, metrics, any reading or the log."""
    upstream = {
        "endpoints": [{"url": registry.url}],
        "plain_http": True,
        "allow_insecure_credentials": True,
        "proxy": "none",
        "credentials": "team",
    }
    text = f"upstreams: {json.dumps({HUB: upstream})}\ncredentials: {{team: {{username: me, password: {{env: TEAM}}}}}}"
    environ = {"TEAM": canaries.secret("password"), "CISTERN_ADMIN_TOKEN": canaries.secret("token")}
    async with serving(text, cache_dir, environ) as server:
        with capture_logs() as lines:
            await pulled(server, image)
            paths = ["/health", "/metrics", *(f"/api/v1/{name}" for name in ("rules", "upstreams", "images", "usage"))]
            told = [(await server.ask(path)).text for path in paths]
            told.append((await server.ask(f"/api/v1/explain?reference={HUB}/team/app:1")).text)
            wrong = {"Authorization": f"Bearer {canaries.secret('token')}"}
            told.append((await server.ask("/api/v1/evict", method="POST", body={"reference": "q"}, **wrong)).text)
    assert '"team"' in told[0]
    assert len(lines) > 3
    canaries.assert_absent(*told, repr(lines))


# The door


async def test_over_the_limit_a_client_is_told_to_come_back(cache_dir: Path, registry: Registry, image: Image) -> None:
    """503 with Retry-After and a closed connection; who is inside goes on, the admin address answers."""
    part = image.layers[0]
    async with serving(config(registry, "limits: {max_connections: 2}"), cache_dir) as server:
        gate = registry.hold(part.digest, after_bytes=10_000)
        path = f"/v2/{HUB}/team/app/blobs/{part.digest}"
        inside = [await server.start(path), await server.start(path)]
        await gate.reached()
        for pulling in inside:
            assert await pulling.head() == 200
        outside = await server.start("/v2/")
        assert await outside.head() == 503
        assert outside.headers["Retry-After"] == "2"
        assert outside.headers["Connection"] == "close"
        assert json.loads(await outside.rest())["errors"][0]["code"] == "UNAVAILABLE"
        assert (await server.ask("/readyz")).status == 200
        assert await server.metric("cistern_requests_total", status="503", outcome="error") == 1.0
        gate.open()
        assert [await pulling.rest() for pulling in inside] == [part.data, part.data]
        assert await server.pull("/v2/") == 200


# Rot


@pytest.mark.parametrize("repair", [True, False])
async def test_rot_is_found_set_aside_and_mended(
    server: Serving, image: Image, registry: Registry, repair: bool
) -> None:
    """Silent rot in a layer and in a manifest: found, counted and told once each, and with `repair` fetched again."""
    await pulled(server, image)
    rotten = [image.layers[0].digest, image.digest]
    for digest in rotten:
        silently(flip_a_bit, server.rooms.disk.blobs.path_of(digest))
    with capture_logs() as lines:
        told = (await server.control("/api/v1/verify", body={"repair": repair})).json
    assert {found["digest"]: found["mended"] for found in told["bad"]} == dict.fromkeys(map(str, rotten), repair)
    assert told["clean"] is repair
    assert await server.metric("cistern_integrity_failures_total", where="store") == 2.0
    assert len([line for line in lines if line["event"] == "wrong content"]) == 2
    again = (await server.control("/api/v1/verify", body={})).json
    assert (again["clean"], again["blobs"]) == (True, len(image.blobs) + (1 if repair else -1))
    state = (await server.ask("/api/v1/verify")).json
    assert (state["running"], state["blobs"]) == (False, again["blobs"])


async def test_without_the_upstream_what_is_bad_stays_bad(server: Serving, image: Image, registry: Registry) -> None:
    """Nobody can give it again: it is set aside all the same, the check says why, and is not clean."""
    await pulled(server, image)
    silently(flip_a_bit, server.rooms.disk.blobs.path_of(image.layers[0].digest))
    await registry.stop()
    told = (await server.control("/api/v1/verify", body={"repair": True})).json
    [found] = told["bad"]
    assert (told["clean"], found["mended"]) == (False, False)
    assert HUB in found["why_not"]


async def test_a_manifest_in_memory_mends_what_rotted(server: Serving, image: Image, registry: Registry) -> None:
    """The last good copy may be the one in memory: it is kept again, with the upstream away, and served on."""
    await pulled(server, image)
    silently(flip_a_bit, server.rooms.disk.blobs.path_of(image.digest))
    await registry.stop()
    told = (await server.control("/api/v1/verify", body={"repair": True})).json
    assert [found["mended"] for found in told["bad"]] == [True]
    assert server.rooms.disk.blobs.path_of(image.digest).read_bytes() == image.manifest.data
    assert (await server.control("/api/v1/verify", body={})).json["clean"]


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"repair": 2}', b'{"repair": true, "x": 1}', b'{"reference": "a"}'])
async def test_a_verify_that_makes_no_sense_is_refused(server: Serving, body: bytes) -> None:
    """Only the one choice there is; anything else is no body of a verify."""
    told = await server.control("/api/v1/verify", body=body)
    assert (told.status, told.code) == (400, "name_invalid")


async def test_a_verify_needs_the_right_to_change(server: Serving) -> None:
    """Hashing everything is a deed: over TCP it takes the token."""
    assert (await server.ask("/api/v1/verify", method="POST", body={})).status == 403
    allowed = await server.ask("/api/v1/verify", method="POST", body={}, Authorization=f"Bearer {TOKEN}")
    assert (allowed.status, allowed.json["clean"]) == (200, True)
