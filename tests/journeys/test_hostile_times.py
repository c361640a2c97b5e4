"""Clocks that go back, and upstreams that take longer than a check may: nobody is refused who could be served."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.proxy import Proxy, proxied
from tests.support.registry import Registry

REPOSITORY = "team/app"
HOUR_S = 3600.0


@pytest.fixture
async def proxy(cache_dir: Path, registry: Registry, clock: Clock) -> AsyncIterator[Proxy]:
    """A proxy that serves a tag stale after 50 ms without an answer."""
    async with proxied(
        cache_dir, registry, clock, extra="tags: {check_within: 50ms}\nhydrate: {image: none}"
    ) as running:
        yield running


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add(REPOSITORY, "1", manifest(blob(100)))


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_slow_check_of_a_tag_whose_manifest_is_not_here_is_waited_for(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image, method: str
) -> None:
    """`check_within` is for tags that can be served stale: with nothing to serve, the upstream's answer is worth it."""
    assert (await proxy.ask(f"{REPOSITORY}/manifests/1", method="HEAD")).status == 200  # the manifest stays away
    clock.advance(61)
    gate = registry.hold_headers("1", times=1)
    asked = await proxy.start(f"{REPOSITORY}/manifests/1", method=method)
    await gate.reached()
    late = asyncio.ensure_future(asked.rest())
    await asyncio.wait([late], timeout=0.3)  # longer than check_within: the answer must not be a timeout
    gate.open()
    await late
    assert asked.status == 200


async def test_a_clock_that_goes_back_does_not_prolong_what_was_missing(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """A tag, a manifest and a blob that were not found are asked for again after the clock went back an hour."""
    layer = registry.add_blob("team/elsewhere", blob(300))
    other = manifest(layer)
    paths = [
        f"{REPOSITORY}/manifests/2",
        f"{REPOSITORY}/manifests/{other.digest}",
        f"{REPOSITORY}/blobs/{layer.digest}",
    ]
    for path in paths:
        assert (await proxy.ask(path)).status == 404
    await proxy.quiet()
    clock.advance(-HOUR_S)
    registry.add(REPOSITORY, "2", other)
    for path in paths:
        assert (await proxy.ask(path)).status == 200
    await proxy.quiet()


async def test_a_clock_that_goes_back_does_not_prolong_a_failed_check(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """A check that failed is tried again after the clock went back, not an hour later."""
    assert (await proxy.ask(f"{REPOSITORY}/manifests/1")).status == 200
    clock.advance(61)
    registry.script("1", script.error(503), methods=("GET", "HEAD"))
    assert "ttl=-" in (await proxy.ask(f"{REPOSITORY}/manifests/1")).headers["Cache-Status"]
    await proxy.rooms.tags.settled()
    registry.heal()
    clock.advance(-HOUR_S)
    answer = await proxy.ask(f"{REPOSITORY}/manifests/1")
    assert answer.headers["Cache-Status"].endswith("; fwd=stale; fwd-status=304")


async def test_a_first_caller_who_leaves_does_not_end_the_check_for_the_others(
    proxy: Proxy, registry: Registry, image: Image
) -> None:
    """Ten ask for a cold tag, the first hangs up: one request upstream, nine answers."""
    gate = registry.hold_headers("1", times=1)
    first = await proxy.start(f"{REPOSITORY}/manifests/1")
    await gate.reached()
    others = [await proxy.start(f"{REPOSITORY}/manifests/1") for _ in range(9)]
    await first.leave()
    gate.open()
    bodies = await asyncio.gather(*(other.rest() for other in others))
    assert bodies == [image.manifest.data] * 9
    assert registry.requests_for("1") == 1
    assert registry.requests_for(image.digest) == 0
