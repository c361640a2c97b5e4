"""Clocks that go back, and upstreams that take longer than a check may: nobody is refused who could be served."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, proxied
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


@pytest.mark.parametrize(
    "jumps_s",
    [[3600.0, -3600.0], [-1_800_000_000.0, 1_800_000_000.0], [350_000_000.0, -350_000_000.0]],
    ids=["an hour on and back", "to 1970 and back", "to 2038 and back"],
)
async def test_a_clock_that_jumps_makes_no_storm_and_nothing_eternal(
    cache_dir: Path, registry: Registry, clock: Clock, jumps_s: list[float]
) -> None:
    """After each jump a tag costs one check, whoever asks and how often; what is fresh is fresh again, what is missing
    is asked for again, and neither breaker nor gate hears of it.
    """
    tags = [str(number) for number in range(10)]
    for tag in tags:
        registry.add("team/app", tag, manifest(blob(2000 + int(tag))))
    async with proxied(cache_dir, registry, lambda: clock()) as proxy:  # the time of day jumps, and nothing else
        for jump_s in [0.0, *jumps_s]:
            clock.advance(jump_s)
            registry.forget()
            for _ in range(3):
                answers = await asyncio.gather(*(proxy.ask(f"team/app/manifests/{tag}") for tag in tags * 5))
                assert {answer.status for answer in answers} == {200}
                assert not any("Warning" in answer.headers for answer in answers)
                assert (await proxy.ask("team/app/manifests/absent")).status == 404
            assert all(registry.requests_for(tag, "HEAD") + registry.requests_for(tag) <= 1 for tag in tags)
            assert registry.requests_for("absent") + registry.requests_for("absent", "HEAD") <= 2
            [state] = proxy.rooms.upstreams.states(UPSTREAM)
            assert (state.circuit, state.throttled) == ("closed", ())


@pytest.mark.parametrize(
    "text", ["Fri, 31 Dec 9999 23:59:59 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "-1", "soon", "1e9"]
)
@pytest.mark.parametrize("now_jump_s", [0.0, -1_800_000_000.0], ids=["clock right", "clock in 1970"])
async def test_a_retry_after_of_any_kind_is_bounded(
    cache_dir: Path, registry: Registry, clock: Clock, text: str, now_jump_s: float
) -> None:
    """Ten years, the past, a negative number, a word: held content flows, the rest is refused for an hour at most and
    not asked for meanwhile; then it is, and is served.
    """
    registry.add("team/app", "1", manifest(blob(2000)))
    registry.add("team/app", "2", manifest(blob(2001)))
    async with proxied(cache_dir, registry, clock) as proxy:
        held = await proxy.ask("team/app/manifests/1")
        clock.advance(now_jump_s)
        registry.script("2", script.throttle(text), methods=("GET", "HEAD"))
        refused = await proxy.ask("team/app/manifests/2")
        assert (refused.status, 1 <= int(refused.headers["Retry-After"]) <= 3700) == (503, True)
        registry.heal()
        registry.forget()
        assert (await proxy.ask("team/app/manifests/2")).status == 503
        assert (await proxy.ask(f"team/app/manifests/{held.headers['Docker-Content-Digest']}")).status == 200
        assert registry.requests == []
        clock.advance(3700)
        assert (await proxy.ask("team/app/manifests/2")).status == 200
