"""The right to change: with the token, or over the control socket, which is its owner's alone."""

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.admin import HUB, TOKEN, config, pulled
from tests.support.edge import Serving, serving
from tests.support.images import Image, blob, manifest
from tests.support.leaks import Canaries
from tests.support.registry import Registry

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


async def test_a_body_that_never_ends_is_refused(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for as long as for a header."""
    monkeypatch.setattr("proxy.server.admin.BODY_S", 0.05)
    reader, writer = await asyncio.open_unix_connection(server.edge.control.url.removeprefix("unix:"))
    writer.write(b"POST /api/v1/evict HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n{")
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    writer.close()
