"""Another configuration while pulls run: nobody loses a byte, and the next request sees it."""

import asyncio
from pathlib import Path

import pytest

from tests.support import images
from tests.support.images import Blob, Image
from tests.support.realm import Bearer, Realm
from tests.support.registry import Registry
from tests.support.reloading import Reloading, reloading
from tests.support.rewritten import APP, CLIENTS, HUB, SIZE, health, text, upstream


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
