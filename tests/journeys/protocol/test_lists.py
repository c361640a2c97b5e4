"""What the other journeys leave of protocol.md, section 5: tags and referrers."""

import json

from proxy.listings import PAGE_MAX
from proxy.oci import Digest
from tests.support import script
from tests.support.always import always
from tests.support.clock import Clock
from tests.support.images import Image
from tests.support.proxy import UPSTREAM, Proxy
from tests.support.registry import Registry

APP = "team/app"


async def test_a_registry_without_tag_lists_is_no_unknown_repository(
    proxy: Proxy, registry: Registry, image: Image
) -> None:
    """T04: public.ecr.aws has no tags/list; its 404 says nothing of the manifests."""
    registry.script(f"/v2/{APP}/tags/list", script.error(404, "NOT_FOUND"))
    assert (await proxy.ask(f"{APP}/tags/list")).status == 404
    assert (await proxy.ask(f"{APP}/manifests/1")).body == image.manifest.data


async def test_referrers_never_flip_to_missing(proxy: Proxy, registry: Registry, clock: Clock, image: Image) -> None:
    """F03: a client that once saw 200 never falls back again: an outage is a stale 200 or a 503, never a 404."""
    path = f"{APP}/referrers/{image.digest}"
    assert (await proxy.ask(path)).status == 200
    for failing in (500, 502, 503, 429):
        clock.advance(3600)
        registry.quirk = always(failing)
        assert (await proxy.ask(path)).status == 200
        assert (await proxy.ask(f"{APP}/referrers/{Digest.of(b'another')}")).status == 503


async def test_referrers_of_the_zero_digest_are_an_empty_index(proxy: Proxy, registry: Registry, image: Image) -> None:
    """F06: oras pings so; whether the API is there is all that it asks."""
    zero = f"sha256:{'0' * 64}"
    answer = await proxy.ask(f"{APP}/referrers/{zero}")
    assert (answer.status, json.loads(answer.body)["manifests"]) == (200, [])
    registry.has_referrers = False
    answer = await proxy.ask(f"{APP}/referrers/sha256:{'1' * 64}")
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")


async def test_several_artifact_types_are_asked_one_at_a_time(proxy: Proxy, registry: Registry, image: Image) -> None:
    """F04: each filter has an answer of its own, and none is served for another."""
    for kind in ("a/b", "c/d"):
        await proxy.ask(f"{APP}/referrers/{image.digest}?artifactType={kind}")
        await proxy.ask(f"{APP}/referrers/{image.digest}?artifactType={kind}")
    asked = [request.query.get("artifactType") for request in registry.requests if "referrers" in request.path]
    assert asked == ["a/b", "c/d"]


async def test_a_page_of_no_number_is_refused(proxy: Proxy, registry: Registry) -> None:
    """T02, V34: 400 of its own code, and nobody is asked."""
    for path in ("/v2/_catalog", f"/v2/{UPSTREAM}/{APP}/tags/list"):
        for n in ("-1", "abc", "1e3", "٣", "0x10", " 1", "1.0"):
            answer = await proxy.ask(f"{path}?n={_quoted(n)}")
            assert (n, answer.status, answer.code) == (n, 400, "PAGINATION_NUMBER_INVALID")
    assert registry.requests == []


async def test_a_page_without_end_costs_a_bounded_one(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """V34: the upstream is asked for our own page at most, whatever a client asks for."""
    for n in (10**12, 2**63, 10**19):
        assert (await proxy.ask(f"/v2/_catalog?n={n}")).status == 200
        assert (await proxy.ask(f"{APP}/tags/list?n={n}")).status == 200
        clock.advance(3600)
    assert [int(request.query["n"]) for request in registry.requests] == [PAGE_MAX] * 3


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())
