"""`verify` over the admin address: rot is found, set aside and mended, or said to stay."""

import pytest
from structlog.testing import capture_logs

from tests.support.admin import HUB, TOKEN, pulled
from tests.support.damage import flip_a_bit, silently
from tests.support.edge import Serving
from tests.support.images import Image
from tests.support.registry import Registry


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
