"""A rule that is pinned to an endpoint never leaves it, and what that endpoint lacks is told to nobody else."""

import json
from pathlib import Path

import pytest

from tests.support import script
from tests.support.both import APP, MIB, PINNED, PINNED_AND_NOT, both
from tests.support.clock import Clock
from tests.support.images import Blob, blob, manifest
from tests.support.registry import Registry
from tests.support.waiting import until


async def test_a_pinned_rule_never_leaves_its_endpoint(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock, wanted: Blob
) -> None:
    """`endpoint:` fails clearly when that one is away, in mid-body too; the upstream's other names go on."""
    pinned = PINNED.replace("URL", registry.url)
    async with both(cache_dir, registry, second, clock, pinned) as proxy:
        registry.script(wanted.digest, script.cut(MIB), script.cut(0))
        registry.script(wanted.digest, script.cut(MIB), times=1)
        with pytest.raises(ConnectionError):
            await proxy.ask(f"/v2/pinned/app/blobs/{wanted.digest}")
        await proxy.quiet()
        assert second.requests == []
        await registry.stop()
        answer = await proxy.ask("/v2/pinned/app/manifests/1")
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        assert second.requests == []
        second.add("other/app", "1", manifest(blob(2000)))
        assert (await proxy.ask("other/app/manifests/1")).status == 200


async def test_a_pinned_rule_s_outage_is_not_told_to_the_upstream_s_other_names(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock, wanted: Blob
) -> None:
    """A failed check of a pinned endpoint is remembered for its own rule: the other asks on, and is fresh."""
    async with both(cache_dir, registry, second, clock, PINNED_AND_NOT.replace("URL", registry.url)) as proxy:
        assert (await proxy.ask("/v2/any/app/manifests/1")).status == 200
        clock.advance(61)
        await registry.stop()
        stale = await proxy.ask("/v2/pinned/app/manifests/1")
        assert (stale.status, "Warning" in stale.headers) == (200, True)
        fresh = await proxy.ask("/v2/any/app/manifests/1")
        assert (fresh.status, "Warning" in fresh.headers) == (200, False)


@pytest.mark.parametrize("first", ["tag", "digest", "blob"])
async def test_what_a_pinned_endpoint_lacks_is_not_missing_under_the_upstream_s_other_names(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock, first: str
) -> None:
    """A 404 is remembered of the endpoint that said it, and told again to its own rule alone."""
    image = registry.add(APP, "new", manifest(blob(3000)))
    target = {
        "tag": "manifests/new",
        "digest": f"manifests/{image.digest}",
        "blob": f"blobs/{image.layers[0].digest}",
    }[first]
    async with both(cache_dir, registry, second, clock, PINNED_AND_NOT.replace("URL", second.url)) as proxy:
        assert (await proxy.ask(f"/v2/pinned/app/{target}")).status == 404
        await proxy.quiet()
        assert (await proxy.ask(f"/v2/pinned/app/{target}", method="HEAD")).status == 404
        assert (await proxy.ask(f"/v2/any/app/{target}")).status == 200


async def test_a_pinned_endpoint_s_tag_list_is_its_own(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock, wanted: Blob
) -> None:
    """A list is cached for the endpoints that may have told it."""
    second.add(APP, "2", manifest(blob(3000)))
    async with both(cache_dir, registry, second, clock, PINNED_AND_NOT.replace("URL", second.url)) as proxy:
        listed = [json.loads((await proxy.ask(f"/v2/{name}/app/tags/list")).body) for name in ("pinned", "any")]
    assert [told["tags"] for told in listed] == [["1", "2"], ["1"]]


async def test_one_who_joins_a_pinned_transfer_does_not_hear_its_404(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock
) -> None:
    """While a pinned endpoint has not answered yet, the upstream's other names join by their own endpoints' word."""
    layer = registry.add_blob(APP, blob(200_000))
    second.add_blob(APP, blob(10))
    gate = second.hold_headers(layer.digest, methods=("GET",))
    async with both(cache_dir, registry, second, clock, PINNED_AND_NOT.replace("URL", second.url)) as proxy:
        pinned = await proxy.start(f"/v2/pinned/app/blobs/{layer.digest}")
        await gate.reached()
        other = await proxy.start(f"/v2/any/app/blobs/{layer.digest}")
        await until(lambda: proxy.rooms.downloads.readers == 2)
        gate.open()
        assert await other.rest() == layer.data
        assert await pinned.head() == 404
        await pinned.leave()
        await proxy.quiet()
