"""Blobs by redirect: which client is sent to the data address for which blob."""

from typing import Any

import pytest

from tests.support import images
from tests.support.data import target_of
from tests.support.images import Image
from tests.support.redirecting import APP, HUB, NOBODY, Site
from tests.support.registry import Registry


async def test_a_cold_blob_comes_by_the_data_address(site: Site, registry: Registry, image: Image) -> None:
    """Its size is known from the manifest; it is fetched once, and the second time it is here."""
    await site.front.ask(f"{APP}/manifests/1")
    large = image.layers[0]
    for cache_status in ("cistern; fwd=miss; stored", "cistern; hit"):
        moved = await site.front.ask(f"{APP}/blobs/{large.digest}")
        assert moved.headers["Location"].startswith(f"http://data.example{APP}/blobs/{large.digest}?expires=")
        assert moved.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
        assert (moved.headers["Cache-Status"], moved.body) == ("cistern; detail=redirected", b"")
        reply = await site.data.ask(target_of(moved))
        assert (reply.status, reply.body, reply.headers["Cache-Status"]) == (200, large.data, cache_status)
        assert reply.headers["Docker-Content-Digest"] == str(large.digest)
        await site.server.rooms.downloads.idle()
    assert registry.requests_for(large.digest) == 1


async def test_only_what_is_larger_is_left_to_the_data_address(site: Site, image: Image) -> None:
    """`over` itself is not over; cold or here makes no difference."""
    await site.front.ask(f"{APP}/manifests/1")
    for _ in range(2):
        answers = [await site.front.ask(f"{APP}/blobs/{layer.digest}") for layer in image.layers]
        assert [answer.status for answer in answers] == [307, 307, 200]
        for layer, answer in zip(image.layers[:2], answers, strict=False):
            assert (await site.data.ask(target_of(answer))).body == layer.data
        await site.server.rooms.downloads.idle()


async def test_a_blob_of_unknown_size_is_sent_from_here(site: Site, registry: Registry) -> None:
    """Nobody is asked for a size: a blob that no manifest has named comes at once; once it is here, by redirect."""
    lone = registry.add_blob("team/app", images.blob(300_000, seed=9))
    assert (await site.front.ask(f"{APP}/blobs/{lone.digest}")).body == lone.data
    await site.server.rooms.downloads.idle()
    assert (await site.data.ask(await site.signed(lone))).body == lone.data
    assert registry.requests_for(lone.digest) == 1


async def test_a_head_and_a_manifest_are_never_redirected(site: Site, image: Image) -> None:
    """Clients follow neither well (protocol B24)."""
    await site.warm(image)
    head = await site.front.ask(f"{APP}/blobs/{image.layers[0].digest}", method="HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, "300000")
    assert (await site.front.ask(f"{APP}/manifests/1", method="HEAD")).status == 200


async def test_only_clients_of_the_networks_are_sent_there(opened: Any, image: Image) -> None:
    """All others get the bytes where they asked."""
    site = await opened(blobs=NOBODY)
    await site.front.ask(f"{APP}/manifests/1")
    for _ in range(2):
        assert (await site.front.ask(f"{APP}/blobs/{image.layers[0].digest}")).body == image.layers[0].data
        await site.server.rooms.downloads.idle()


async def test_a_rule_may_keep_its_blobs_here(opened: Any, image: Image) -> None:
    """By a rule's own word, for its own path as for the upstream's."""
    rule = {"name": "own", "repository": "own/*", "upstream": f"{HUB}/team/*", "blobs": {"redirect": "none"}}
    site = await opened(rules=[rule])
    for path in ("/v2/own/app", APP):
        await site.front.ask(f"{path}/manifests/1")
        assert (await site.front.ask(f"{path}/blobs/{image.layers[0].digest}")).status == 200


async def test_a_range_outside_any_blob_is_answered_at_once(site: Site, image: Image) -> None:
    """A redirect would only make it a longer way to the same 416."""
    await site.front.ask(f"{APP}/manifests/1")
    reply = await site.front.ask(f"{APP}/blobs/{image.layers[0].digest}", Range="bytes=9-1")
    assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */300000")


@pytest.mark.parametrize(
    "path", [APP, "/v2/team/app", f"/{HUB}/v2/team/app", "/v2/own/app"], ids=["path", "ns", "prefix", "rule"]
)
async def test_every_form_of_a_name_is_signed_as_it_was_asked(opened: Any, image: Image, path: str) -> None:
    """The data address routes it as the registry address does, and echoes `ns`."""
    rule = {"name": "own", "repository": "own/*", "upstream": f"{HUB}/team/*"}
    site, ns = await opened(rules=[rule]), "?ns=hub.test" if path == "/v2/team/app" else ""
    await site.front.ask(f"{path}/manifests/1{ns}")
    moved = await site.front.ask(f"{path}/blobs/{image.layers[0].digest}{ns}")
    reply = await site.data.ask(target_of(moved))
    assert (reply.status, reply.body) == (200, image.layers[0].data)
    assert reply.headers.get("OCI-Namespace") == (HUB if ns else None)
