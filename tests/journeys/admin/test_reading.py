"""What the admin address tells of pulls, rules, upstreams and lies, what it refuses, and when it is full."""

import asyncio
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support import script
from tests.support.admin import HUB, config, pulled
from tests.support.edge import Serving, serving
from tests.support.images import Image
from tests.support.registry import Registry

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
