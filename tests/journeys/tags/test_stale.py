"""Tags whose upstream is away or slow: served stale at once where it is known, and checked behind."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.events import TagStale
from proxy.freshness import TagRecord
from proxy.outcome import Outcome, Result
from proxy.rules import Place, Route
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, proxied
from tests.support.registry import Registry
from tests.support.tagged import APP, TAG, is_stale
from tests.support.wire import Fault, Gate

OTHER = f"{APP}/manifests/2"
OUTAGES = {
    "500": script.error(500),
    "503": script.error(503),
    "429": script.throttle("5"),
    "html": script.html(),
}


@pytest.mark.parametrize("fault", OUTAGES.values(), ids=OUTAGES.keys())
async def test_an_outage_serves_the_held_tag_stale(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image, fault: Fault
) -> None:
    """Whatever the upstream does wrong, a held tag is served, marked with its age and the reason; then it heals."""
    proxy.hear(TagStale)
    await proxy.ask(TAG)
    registry.script("1", fault, methods=("GET", "HEAD"))
    clock.advance(7200)
    is_stale(await proxy.ask(TAG), image, 7200)
    assert len(proxy.heard) == 1
    registry.heal()
    clock.advance(7)
    assert (await proxy.ask(TAG)).headers["Cache-Status"] == "cistern-test; fwd=stale; fwd-status=304"


async def test_an_upstream_that_is_gone_serves_stale(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """With the upstream's port closed a held image is pulled whole, after a year too."""
    await proxy.ask(TAG)
    for part in image.blobs:
        await proxy.pull(part)
    await proxy.quiet()
    await registry.stop()
    clock.advance(365 * 86400)
    is_stale(await proxy.ask(TAG), image, 365 * 86400)
    for part in image.blobs:
        assert (await proxy.pull(part)).body == part.data


async def test_nothing_held_is_a_clean_refusal(proxy: Proxy, registry: Registry, image: Image) -> None:
    """An upstream that is away and nothing here: 503 with Retry-After and the OCI body."""
    await registry.stop()
    answer = await proxy.ask(TAG)
    assert (answer.status, answer.code) == (503, "UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) >= 1


async def test_a_failed_check_is_remembered_for_a_second(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """While a check has just failed, others are served stale without asking again; a second later one asks."""
    await proxy.ask(TAG)
    registry.script("1", script.error(503), methods=("GET", "HEAD"))
    clock.advance(100)
    for _ in range(20):
        is_stale(await proxy.ask(TAG), image, 100)
    first = registry.requests_for("1", "HEAD")
    clock.advance(1.5)
    await proxy.ask(TAG)
    assert first < registry.requests_for("1", "HEAD") <= 2 * first


async def test_a_slow_check_serves_stale_and_goes_on(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """No answer within `check_within`: the held tag is served, marked stale; the late answer renews it all the same."""
    registry.add(APP, "1", manifest(blob(2000)))
    async with proxied(cache_dir, registry, clock, extra="tags: {check_within: 20ms}") as proxy:
        await proxy.ask(TAG)
        clock.advance(61)
        gate = registry.hold_headers("1", methods=("HEAD",))
        stale = await proxy.ask(TAG)
        assert stale.headers["Warning"].startswith('299 - "stale: upstream origin.test: no answer within')
        gate.open()
        await proxy.rooms.tags.settled()
        assert "Warning" not in (await proxy.ask(TAG)).headers


def route_of(proxy: Proxy, check_within_s: float) -> Route:
    """The route of both tags, were `check_within` so many seconds."""
    route = proxy.rooms.rules.route_in(UPSTREAM, Place(UPSTREAM, APP))
    assert route is not None
    return replace(route, tags=replace(route.tags, check_within_s=check_within_s))


async def served_at_once(proxy: Proxy, tag: str) -> str:
    """Why a tag is served stale to one who would wait an hour for its check. TimeoutError: it was waited for."""
    async with asyncio.timeout(20):
        found = await proxy.rooms.tags.resolve(route_of(proxy, 3600.0), tag, want_body=False)
    assert found.outcome.stale_because is not None
    return found.outcome.stale_because


async def test_a_slow_check_is_waited_for_once(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """Who asks while a check outlasts `check_within` is served at once; when it has failed, the next one checks."""
    registry.add(APP, "1", manifest(blob(2000)))
    async with proxied(cache_dir, registry, clock, extra="tags: {check_within: 50ms}") as proxy:
        await proxy.ask(TAG)
        clock.advance(61)
        gate = Gate()
        registry.script("1", script.error(503), script.gate_headers(gate), methods=("HEAD", "GET"))
        await proxy.ask(TAG)
        assert "Warning" in (await proxy.ask(TAG)).headers
        for _ in range(20):
            assert "no answer within" in await served_at_once(proxy, "1")
        assert registry.requests_for("1", "HEAD") == 1
        gate.open()
        await proxy.rooms.tags.settled()
        assert "Warning" in (await proxy.ask(TAG)).headers  # for a moment
        registry.heal()
        clock.advance(2)
        assert (await proxy.ask(TAG)).headers["Cache-Status"].endswith("; fwd=stale; fwd-status=304")


@asynccontextmanager
async def two_due_tags(cache: Path, registry: Registry, clock: Clock, check_within: str) -> AsyncIterator[Proxy]:
    """A proxy that holds both tags, each due for a check."""
    for tag in "12":
        registry.add(APP, tag, manifest(blob(2000, seed=int(tag))))
    async with proxied(cache, registry, clock, extra=f"tags: {{check_within: {check_within}}}") as proxy:
        for path in (TAG, OTHER):
            await proxy.ask(path)
        clock.advance(61)
        yield proxy


async def test_a_silent_upstream_is_waited_for_once(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """Another tag learns from the first: it is served stale at once and checked behind, until the upstream speaks."""
    async with two_due_tags(cache_dir, registry, clock, check_within="50ms") as proxy:
        gate = registry.hold_headers("*", methods=("HEAD",))
        await proxy.ask(TAG)
        assert "no answer within" in await served_at_once(proxy, "2")
        assert "no answer within" in (await proxy.ask(OTHER)).headers["Warning"]
        registry.heal()
        gate.open()
        await proxy.rooms.tags.settled()
        assert registry.requests_for("2", "HEAD") == 1
        clock.advance(61)
        assert "Warning" not in (await proxy.ask(OTHER)).headers


async def test_one_slow_tag_makes_no_upstream_silent(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """Where others have their answers meanwhile, each is worth a wait."""
    async with two_due_tags(cache_dir, registry, clock, check_within="300ms") as proxy:
        gate = registry.hold_headers("1", methods=("HEAD",))
        slow = asyncio.ensure_future(proxy.ask(TAG))
        await gate.reached()
        clock.advance(1)
        assert "Warning" not in (await proxy.ask(OTHER)).headers
        assert "Warning" in (await slow).headers
        clock.advance(61)
        assert "Warning" not in (await proxy.ask(OTHER)).headers
        gate.open()


async def test_stale_for_zero_never_serves_stale(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """With `stale_for: 0s` an outage past `fresh_for` is an error, however much is held."""
    registry.add(APP, "1", manifest(blob(2000)))
    async with proxied(cache_dir, registry, clock, extra="tags: {stale_for: 0s}") as proxy:
        await proxy.ask(TAG)
        await registry.stop()
        clock.advance(61)
        assert (await proxy.ask(TAG)).status == 503


async def test_served_while_checking(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """Within `serve_while_checking` past fresh the answer leaves at once, and the check runs behind it."""
    registry.add(APP, "1", manifest(blob(2000)))
    async with proxied(cache_dir, registry, clock, extra="tags: {serve_while_checking: 1h}") as proxy:
        await proxy.ask(TAG)
        clock.advance(100)
        gate = registry.hold_headers("1", methods=("HEAD",))
        answer = await proxy.ask(TAG)
        assert answer.headers["Cache-Status"].endswith("; hit; ttl=-40")
        await gate.reached()
        gate.open()
        await proxy.rooms.tags.settled()
        assert (await proxy.ask(TAG)).headers["Cache-Status"].endswith("; hit")
        assert registry.requests_for("1", "HEAD") == 1


async def test_a_check_that_ends_as_its_time_is_up_is_not_the_last(
    proxy: Proxy, image: Image, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that ends in the very turn in which `check_within` is over: the next client's request checks again."""
    await proxy.ask(TAG)
    clock.advance(61)
    tags, at_once = proxy.rooms.tags, route_of(proxy, 0.0)
    checked: list[str] = []

    async def check(_route: Route, tag: str, record: TagRecord) -> tuple[TagRecord, Outcome]:
        checked.append(tag)
        return record, Outcome(result=Result.HIT)

    monkeypatch.setattr(tags, "_check", check)
    for _ in range(3):
        assert (await tags.resolve(at_once, "1", want_body=False)).descriptor.digest == image.digest
    assert checked == ["1"] * 3
