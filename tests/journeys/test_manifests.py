"""Manifests through the whole proxy: byte for byte, hashed, capped, and as complete by HEAD as by GET."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.events import IntegrityFailed
from proxy.oci import ACCEPT, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Digest
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob, Image, blob, index, manifest
from tests.support.proxy import Proxy, proxied
from tests.support.registry import Registry
from tests.support.wire import reply

APP = "team/app"


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add(APP, "1", manifest(blob(2000)))


def path_of(target: Digest | str, repository: str = APP) -> str:
    return f"{repository}/manifests/{target}"


SHAPES = {
    "oci image": (lambda: manifest(blob(300)), OCI_MANIFEST),
    "docker image": (lambda: manifest(blob(300), docker=True), DOCKER_MANIFEST),
    "oci index": (lambda: index(manifest(blob(300))), OCI_INDEX),
    "docker list": (lambda: index(manifest(blob(300), docker=True), docker=True), DOCKER_LIST),
    "no layers": (lambda: manifest(), OCI_MANIFEST),
    "empty index": (lambda: index(), OCI_INDEX),
}


@pytest.mark.parametrize(("build", "media_type"), SHAPES.values(), ids=SHAPES.keys())
async def test_every_shape_is_served_byte_for_byte(
    proxy: Proxy, registry: Registry, build: Callable[[], Image], media_type: str
) -> None:
    """By tag and by digest, cold and held, GET and HEAD carry the same headers and the exact bytes."""
    image = registry.add(APP, "x", build())
    expected = image.manifest.data
    for target in ("x", image.digest, "x", image.digest):
        got = await proxy.ask(path_of(target))
        head = await proxy.ask(path_of(target), method="HEAD")
        assert (got.status, got.body, head.status, head.body) == (200, expected, 200, b"")
        for answer in (got, head):
            assert answer.headers["Content-Type"] == media_type
            assert answer.headers["Content-Length"] == str(len(expected))
            assert answer.headers["Docker-Content-Digest"] == str(image.digest)
            assert answer.headers["ETag"] == f'"{image.digest}"'
            assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert registry.requests_for("x") == 1
    assert registry.requests_for(image.digest) == 0


async def test_the_full_accept_list_is_always_asked(proxy: Proxy, registry: Registry, image: Image) -> None:
    """A client's narrow Accept never reaches the upstream, so one client's answer serves all."""
    await proxy.ask(path_of("1"), Accept=DOCKER_MANIFEST)
    (asked,) = registry.recorded("1")
    assert asked.headers["Accept"] == ACCEPT


async def test_whitespace_and_unknown_fields_survive(proxy: Proxy, registry: Registry) -> None:
    """A manifest is opaque: its bytes are never written anew."""
    image = manifest(blob(300))
    document = json.loads(image.manifest.data) | {"x-unknown": {"b": 1, "a": 2}}
    odd = Blob.of(json.dumps(document, indent=7).encode() + b"\n", OCI_MANIFEST)
    registry.add(APP, "odd", Image(odd))
    assert (await proxy.ask(path_of("odd"))).body == odd.data


async def test_if_none_match_is_a_304(proxy: Proxy, image: Image) -> None:
    """Whoever has the digest already gets no body, but its ETag and digest."""
    for tag in (f'"{image.digest}"', str(image.digest), f'W/"{image.digest}"', f'"x", "{image.digest}"', "*"):
        answer = await proxy.ask(path_of("1"), If_None_Match=tag)
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["ETag"] == f'"{image.digest}"'
        assert answer.headers["Docker-Content-Digest"] == str(image.digest)
    assert (await proxy.ask(path_of("1"), If_None_Match='"other"')).status == 200


async def test_a_range_on_a_manifest_gets_the_whole(proxy: Proxy, image: Image) -> None:
    """containerd 2.1 asks manifests with `bytes=0-`: the whole is a good answer, a 416 would not be."""
    answer = await proxy.ask(path_of("1"), Range="bytes=0-")
    assert (answer.status, answer.body) == (200, image.manifest.data)


async def test_a_substituted_manifest_is_refused(proxy: Proxy, registry: Registry, image: Image) -> None:
    """Other bytes under a digest, with a header that claims the digest, are a 502; nothing is kept (CVE-2026-85747)."""
    proxy.hear(IntegrityFailed)
    other = manifest(blob(999)).manifest
    lie = reply(200, other.data, OCI_MANIFEST, **{"Docker-Content-Digest": str(image.digest)})
    registry.script(image.digest, script.become(lie), times=1)
    answer = await proxy.ask(path_of(image.digest))
    assert (answer.status, answer.code) == (502, "UNKNOWN")
    assert proxy.stored(image.digest) is None
    assert proxy.stored(other.digest) is None
    assert [event.where for event in proxy.heard if isinstance(event, IntegrityFailed)] == ["upstream"]
    assert (await proxy.ask(path_of(image.digest))).body == image.manifest.data


async def test_a_tag_whose_header_lies_is_refused(proxy: Proxy, registry: Registry, image: Image) -> None:
    """A Docker-Content-Digest that is not the body's makes a tag's GET a 502."""
    registry.script("1", script.set_header("Docker-Content-Digest", str(Digest.of(b"else"))), times=1)
    assert (await proxy.ask(path_of("1"))).status == 502
    assert (await proxy.ask(path_of("1"))).body == image.manifest.data


AMBIGUOUS = {
    "manifests and layers": {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [], "manifests": []},
    "media type is not the header's": {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []},
    "schema 1": {"schemaVersion": 1, "name": "x", "fsLayers": []},
    "not an object": [1, 2],
}


@pytest.mark.parametrize("document", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
async def test_an_ambiguous_manifest_is_refused(proxy: Proxy, registry: Registry, document: object) -> None:
    """A body that says two things at once is not served and not kept (CVE-2021-41190)."""
    body = Blob.of(json.dumps(document).encode(), OCI_MANIFEST)
    registry.script("odd", script.become(reply(200, body.data, OCI_MANIFEST)))
    assert (await proxy.ask(path_of("odd"))).status == 502
    assert proxy.stored(body.digest) is None


async def test_a_manifest_above_the_cap_is_refused(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """limits.max_manifest is accepted to the byte, and not one more."""
    image = registry.add(APP, "big", manifest(blob(300), extra={"annotations": {"x": "y" * 5000}}))
    size = len(image.manifest.data)
    for cap, status in ((size, 200), (size - 1, 502)):
        extra = f"limits: {{max_manifest: {cap}B}}"
        async with proxied(cache_dir / str(cap), registry, clock, extra=extra) as proxy:
            assert (await proxy.ask(path_of("big"))).status == status


async def test_a_missing_manifest_is_unknown(proxy: Proxy, registry: Registry, clock: Clock, image: Image) -> None:
    """A tag or digest that the upstream lacks is 404 MANIFEST_UNKNOWN, remembered for `missing_for` and no longer."""
    absent = manifest(blob(4000))
    for target in ("gone", absent.digest):
        for _ in range(3):
            answer = await proxy.ask(path_of(target))
            assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")
        assert registry.requests_for(target) == 1
    registry.add(APP, "gone", absent)
    clock.advance(11)
    for target in ("gone", absent.digest):
        assert (await proxy.ask(path_of(target))).status == 200


async def test_a_blob_is_not_a_manifest(proxy: Proxy, registry: Registry, image: Image) -> None:
    """Asking manifests for a blob's digest is a 404 and poisons nothing; asking blobs for a manifest's is its bytes."""
    layer = image.layers[0]
    assert (await proxy.ask(path_of(layer.digest))).status == 404
    assert (await proxy.pull(layer)).body == layer.data
    assert (await proxy.ask(path_of(layer.digest))).status == 404


async def test_a_rotten_stored_manifest_is_fetched_again(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """Bytes that rotted on disk are never served: the manifest is fetched again and the fault is told."""
    image = registry.add(APP, "1", manifest(blob(2000)))
    async with proxied(cache_dir, registry, clock) as proxy:
        await proxy.ask(path_of(image.digest))
        path = proxy.rooms.disk.blobs.path_of(image.digest)
    path.write_bytes(b"x" * path.stat().st_size)
    async with proxied(cache_dir, registry, clock) as proxy:
        proxy.hear(IntegrityFailed)
        assert (await proxy.ask(path_of(image.digest))).body == image.manifest.data
        assert [event.where for event in proxy.heard if isinstance(event, IntegrityFailed)] == ["store"]
        assert proxy.stored(image.digest) == image.manifest.data


async def test_a_blocked_digest_is_denied(cache_dir: Path, registry: Registry, clock: Clock, image: Image) -> None:
    """A digest on the block list is never served and never fetched, by tag, by digest or as a blob."""
    layer = image.layers[0]
    extra = f'block: ["{image.digest}", "{layer.digest}"]'
    async with proxied(cache_dir, registry, clock, extra=extra) as proxy:
        for path in (path_of("1"), path_of(image.digest), f"{APP}/blobs/{layer.digest}"):
            answer = await proxy.ask(path)
            assert (answer.status, answer.code) == (403, "DENIED")
    assert registry.requests_for(layer.digest) == 0
    assert registry.requests_for(image.digest) == 0
