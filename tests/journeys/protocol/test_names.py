"""What the other journeys leave of protocol.md, section 1: names, and what is asked beside them."""

import json
from pathlib import Path

import pytest

from proxy.oci import Digest
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, config_text, proxied, running
from tests.support.registry import Registry
from tests.support.wire import Answer, Recorded, reply

APP = "team/app"


async def test_the_ping_hangs_on_no_upstream(proxy: Proxy, registry: Registry) -> None:
    """R01, R02: 200 and `{}` in every form that clients build it, with the upstream gone."""
    await registry.stop()
    for path in ("/v2/", "/v2", "/v2/?ns=origin.test", f"/{UPSTREAM}/v2/", f"/{UPSTREAM}/v2"):
        for method in ("GET", "HEAD"):
            answer = await proxy.ask(path, method=method)
            assert (path, answer.status, answer.body) == (path, 200, b"{}" if method == "GET" else b"")
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers["Content-Length"] == "2"
            assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


async def test_a_name_may_hold_any_word(proxy: Proxy, registry: Registry) -> None:
    """R04: names are read from the right."""
    for number, name in enumerate(("a/manifests/b", "blobs/x", "tags/list/tags", "manifests", "a/referrers")):
        image = registry.add(name, "latest", manifest(blob(100 + number)))
        assert (await proxy.ask(f"{name}/manifests/latest")).body == image.manifest.data
        assert (await proxy.pull(image.layers[0], name)).body == image.layers[0].data
        assert json.loads((await proxy.ask(f"{name}/tags/list")).body)["tags"] == ["latest"]


async def test_an_encoded_colon_is_a_colon(proxy: Proxy, image: Image) -> None:
    """R17: `sha256%3AHEX` is how Java and Azure clients write a digest."""
    digest = image.layers[0].digest
    answer = await proxy.ask(f"{APP}/blobs/sha256%3A{digest.encoded}")
    assert (answer.body, answer.headers["Docker-Content-Digest"]) == (image.layers[0].data, str(digest))


@pytest.mark.parametrize(
    "path",
    [f"/v2/{UPSTREAM}/{APP}/manifests/1?ns={UPSTREAM}", f"/v2/{APP}/manifests/1?ns={UPSTREAM}&x=1&n=5"],
    ids=["override_path", "unknown parameters"],
)
async def test_the_namespace_and_unknown_parameters_end_here(
    proxy: Proxy, registry: Registry, image: Image, path: str
) -> None:
    """R09, R15: containerd's `override_path` sends both forms; neither `ns` nor what we do not know goes upstream."""
    for target in (path, path.replace("manifests/1", f"blobs/{image.layers[0].digest}")):
        answer = await proxy.ask(target)
        assert answer.status == 200
        assert answer.headers["OCI-Namespace"] == UPSTREAM
    assert [request.query for request in registry.requests] == [{}, {}]
    await proxy.ask(f"/v2/{APP}/tags/list?ns={UPSTREAM}&x=1&n=5")
    assert registry.requests[-1].query == {"n": "5"}


async def test_where_namespace_and_path_disagree_the_namespace_wins(
    cache_dir: Path, registry: Registry, clock: Clock, image: Image
) -> None:
    """R10: `ns` says which registry; a path that begins with another one's name is a repository of that name."""
    async with Registry() as other:
        moved = other.add(f"{UPSTREAM}/{APP}", "1", manifest(blob(10)))
        text = config_text(cache_dir, registry)
        upstreams = {
            name: {"endpoints": [{"url": site.url}], "plain_http": True}
            for name, site in ((UPSTREAM, registry), ("other.test", other))
        }
        text = f"cache: {{directory: {cache_dir}}}\nupstreams: {json.dumps(upstreams)}\n"
        async with running(text, clock) as proxy:
            answer = await proxy.ask(f"/v2/{UPSTREAM}/{APP}/manifests/1?ns=other.test")
            assert (answer.status, answer.body) == (200, moved.manifest.data)
    assert registry.requests == []


async def test_an_official_name_is_one_place_in_both_spellings(
    cache_dir: Path, registry: Registry, clock: Clock
) -> None:
    """R13: `nginx` is `library/nginx` at an upstream that has the prefix, and both share what is here."""
    image = registry.add("library/nginx", "1", manifest(blob(100)))
    async with proxied(cache_dir, registry, clock, official_prefix="library") as proxy:
        assert (await proxy.ask("nginx/manifests/1")).body == image.manifest.data
        assert (await proxy.ask("library/nginx/manifests/1")).headers["Cache-Status"].endswith("; hit")
    assert registry.requests_for("1") == 1
    assert {request.path for request in registry.requests} == {"/v2/library/nginx/manifests/1"}


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_a_cache_behind_us_that_knows_no_cold_head(
    proxy: Proxy, registry: Registry, image: Image, kind: str
) -> None:
    """R16: a registry that is a cache itself may answer 404 to the HEAD of what it has not fetched: GET decides."""
    wanted = image.manifest if kind == "manifests" else image.layers[0]

    def cold(request: Recorded, answer: Answer) -> Answer:
        return reply(404, b"", "text/plain") if request.method == "HEAD" else answer

    registry.quirk = cold
    head = await proxy.ask(f"{APP}/{kind}/{wanted.digest}", method="HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, str(wanted.size))
    missing = Digest.of(b"missing")
    assert (await proxy.ask(f"{APP}/{kind}/{missing}", method="HEAD")).status == 404
