"""Tags through the whole proxy: fresh, checked, stale, moved, gone and denied; time is turned by hand."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.events import TagMoved, TagStale
from proxy.freshness import TagRecord
from proxy.outcome import Outcome, Result
from proxy.rules import Place, Route
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, Reply, proxied
from tests.support.registry import Registry
from tests.support.wire import Fault, Gate

APP = "team/app"
TAG = f"{APP}/manifests/1"
HELD = "cistern-test; hit"


@pytest.fixture
async def proxy(cache_dir: Path, registry: Registry, clock: Clock) -> AsyncIterator[Proxy]:
    """A proxy whose Cache-Status has a fixed name and whose upstream has short timeouts."""
    timeouts = {"connect": "1s", "headers": "1s", "stall": "1s"}
    extra = "registry: {name: cistern-test}\ntags: {check_within: 5s}"
    async with proxied(cache_dir, registry, clock, extra=extra, timeouts=timeouts) as running:
        yield running


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add(APP, "1", manifest(blob(2000)))


def counts(registry: Registry) -> tuple[int, int]:
    """How often the tag was asked for upstream, by HEAD and by GET."""
    return registry.requests_for("1", "HEAD"), registry.requests_for("1")


async def test_a_fresh_tag_asks_nobody(proxy: Proxy, registry: Registry, clock: Clock, image: Image) -> None:
    """Within `fresh_for` a tag is answered from here, GET and HEAD."""
    assert (await proxy.ask(TAG)).headers["Cache-Status"] == "cistern-test; fwd=miss; stored"
    clock.advance(59)
    for method in ("GET", "HEAD"):
        assert (await proxy.ask(TAG, method=method)).headers["Cache-Status"] == HELD
    assert counts(registry) == (0, 1)


async def test_past_fresh_one_head_for_all(proxy: Proxy, registry: Registry, clock: Clock, image: Image) -> None:
    """A thousand clients that ask past `fresh_for` cost one HEAD, and each gets the answer."""
    await proxy.ask(TAG)
    clock.advance(61)
    gate = registry.hold_headers("1", methods=("HEAD",))
    asking = [asyncio.ensure_future(proxy.ask(TAG, method="HEAD")) for _ in range(200)]
    await gate.reached()
    gate.open()
    answers = await asyncio.gather(*asking)
    assert {answer.headers["Docker-Content-Digest"] for answer in answers} == {str(image.digest)}
    assert {answer.headers["Cache-Status"] for answer in answers} == {"cistern-test; fwd=stale; fwd-status=304"}
    assert counts(registry) == (1, 1)
    assert (await proxy.ask(TAG)).headers["Cache-Status"] == HELD


async def test_a_moved_tag_is_fetched_and_the_old_digest_stays(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """A tag that moved gives its new manifest; the old one is still pullable by digest; the move is told once."""
    proxy.hear(TagMoved)
    await proxy.ask(TAG)
    newer = registry.add(APP, "1", manifest(blob(2001)))
    clock.advance(61)
    answer = await proxy.ask(TAG)
    assert answer.body == newer.manifest.data
    assert answer.headers["Cache-Status"] == "cistern-test; fwd=stale; fwd-status=200"
    assert (await proxy.ask(f"{APP}/manifests/{image.digest}")).body == image.manifest.data
    assert [(event.before, event.after) for event in proxy.heard if isinstance(event, TagMoved)] == [
        (image.digest, newer.digest)
    ]


async def test_a_tag_that_moves_between_head_and_get(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """A client that got a digest by HEAD can pull that digest, although the tag moved since."""
    head = await proxy.ask(TAG, method="HEAD")
    registry.add(APP, "1", manifest(blob(2001)))
    answer = await proxy.ask(f"{APP}/manifests/{head.headers['Docker-Content-Digest']}")
    assert answer.body == image.manifest.data
    clock.advance(61)
    assert (await proxy.ask(TAG)).headers["Docker-Content-Digest"] != str(image.digest)


def is_stale(answer: Reply, image: Image, age: int) -> None:
    """Assert that an answer is the held image, marked stale as the contract says."""
    assert (answer.status, answer.body) == (200, image.manifest.data)
    assert answer.headers["Cache-Status"].startswith("cistern-test; hit; ttl=-")
    assert answer.headers["Warning"].startswith('299 - "stale: ')
    assert int(answer.headers["Age"]) == age


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


async def test_a_slow_check_is_waited_for_once(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """Who asks while a check outlasts `check_within` is served at once; when it has failed, the next one checks."""
    registry.add(APP, "1", manifest(blob(2000)))
    async with proxied(cache_dir, registry, clock, extra="tags: {check_within: 300ms}") as proxy:
        await proxy.ask(TAG)
        clock.advance(61)
        gate = Gate()
        registry.script("1", script.error(503), script.gate_headers(gate), methods=("HEAD", "GET"))
        await proxy.ask(TAG)
        started = asyncio.get_running_loop().time()
        for _ in range(20):
            assert "Warning" in (await proxy.ask(TAG)).headers
        assert asyncio.get_running_loop().time() - started < 20 * 0.3, "each of them waited anew"
        assert registry.requests_for("1", "HEAD") == 1
        gate.open()
        await proxy.rooms.tags.settled()
        assert "Warning" in (await proxy.ask(TAG)).headers  # for a moment
        registry.heal()
        clock.advance(2)
        assert (await proxy.ask(TAG)).headers["Cache-Status"].endswith("; fwd=stale; fwd-status=304")


async def test_a_silent_upstream_is_waited_for_once(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """Another tag learns from the first: it is served stale at once and checked behind, until the upstream speaks."""
    for tag in "12":
        registry.add(APP, tag, manifest(blob(2000, seed=int(tag))))
    other = f"{APP}/manifests/2"
    async with proxied(cache_dir, registry, clock, extra="tags: {check_within: 500ms}") as proxy:
        for path in (TAG, other):
            await proxy.ask(path)
        clock.advance(61)
        gate = registry.hold_headers("*", methods=("HEAD",))
        await proxy.ask(TAG)
        started = asyncio.get_running_loop().time()
        assert "no answer within" in (await proxy.ask(other)).headers["Warning"]
        assert asyncio.get_running_loop().time() - started < 0.4, "it waited as well"
        registry.heal()
        gate.open()
        await proxy.rooms.tags.settled()
        assert registry.requests_for("2", "HEAD") == 1
        clock.advance(61)
        assert "Warning" not in (await proxy.ask(other)).headers


async def test_one_slow_tag_makes_no_upstream_silent(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """Where others have their answers meanwhile, each is worth a wait."""
    for tag in "12":
        registry.add(APP, tag, manifest(blob(2000, seed=int(tag))))
    other = f"{APP}/manifests/2"
    async with proxied(cache_dir, registry, clock, extra="tags: {check_within: 300ms}") as proxy:
        for path in (TAG, other):
            await proxy.ask(path)
        clock.advance(61)
        gate = registry.hold_headers("1", methods=("HEAD",))
        slow = asyncio.ensure_future(proxy.ask(TAG))
        await gate.reached()
        clock.advance(1)
        assert "Warning" not in (await proxy.ask(other)).headers
        assert "Warning" in (await slow).headers
        clock.advance(61)
        assert "Warning" not in (await proxy.ask(other)).headers
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


DEFINITE = {
    "404, public default": ("", script.error(404, "MANIFEST_UNKNOWN"), 200),
    "404, deny": ("tags: {on_not_found: deny}", script.error(404, "MANIFEST_UNKNOWN"), 404),
    "403, default": ("", script.error(403, "DENIED"), 404),
    "403, serve_stale": ("tags: {on_denied: serve_stale}", script.error(403, "DENIED"), 200),
}


@pytest.mark.parametrize(("extra", "fault", "status"), DEFINITE.values(), ids=DEFINITE.keys())
async def test_definite_answers_follow_the_policy(
    cache_dir: Path, registry: Registry, clock: Clock, extra: str, fault: Fault, status: int
) -> None:
    """A 404 follows `on_not_found` and a denial `on_denied`; neither is an outage."""
    registry.add(APP, "1", manifest(blob(2000)))
    async with proxied(cache_dir, registry, clock, extra=extra) as proxy:
        await proxy.ask(TAG)
        registry.script("1", fault, methods=("GET", "HEAD"))
        clock.advance(61)
        answer = await proxy.ask(TAG)
        assert answer.status == status
        assert ("Warning" in answer.headers) == (status == 200)


async def test_an_upstream_whose_head_does_not_work(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """Where HEAD is refused or tells no digest, GET is asked instead, and the tag still renews."""
    for fault in (script.error(405), script.error(404), script.drop_header("Docker-Content-Digest")):
        registry.heal()
        registry.script("1", fault, methods=("HEAD",))
        clock.advance(61)
        answer = await proxy.ask(TAG)
        assert (answer.status, answer.body) == (200, image.manifest.data)


async def test_head_alone_fetches_no_manifest_and_no_blob(proxy: Proxy, registry: Registry, image: Image) -> None:
    """A crawler that only HEADs tags costs no GET (free at Docker Hub) and fills no disk."""
    for _ in range(3):
        head = await proxy.ask(TAG, method="HEAD")
        assert head.headers["Content-Length"] == str(image.manifest.size)
        assert head.headers["Content-Type"] == image.manifest.media_type
    assert counts(registry) == (1, 0)
    assert proxy.stored(image.digest) is None


async def test_a_clock_that_jumps(proxy: Proxy, registry: Registry, clock: Clock, image: Image) -> None:
    """A clock that went back makes a record expired, not eternal; one check mends it."""
    await proxy.ask(TAG)
    clock.advance(-3600)
    assert (await proxy.ask(TAG)).headers["Cache-Status"] == "cistern-test; fwd=stale; fwd-status=304"
    assert (await proxy.ask(TAG)).headers["Cache-Status"] == HELD
    assert counts(registry) == (1, 1)


async def test_tag_records_survive_a_restart(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """What a tag resolved to, and when that was first seen and last checked, is still known to the next process."""
    image = registry.add(APP, "1", manifest(blob(2000)))
    async with proxied(cache_dir, registry, clock) as proxy:
        await proxy.ask(TAG)
        place = proxy.rooms.rules.route(f"{UPSTREAM}/{APP}").place
        before = await proxy.rooms.disk.records.tag(place, "1")
    await registry.stop()
    clock.advance(5)
    async with proxied(cache_dir, registry.url, clock) as proxy:
        assert await proxy.rooms.disk.records.tag(place, "1") == before
        assert before is not None
        assert (before.first_seen, before.origin) == (clock() - 5, registry.url)
        assert (await proxy.ask(TAG)).body == image.manifest.data


@pytest.mark.parametrize("then", ["moved on", "gone"])
async def test_a_tag_whose_new_manifest_is_gone_before_it_is_fetched(
    cache_dir: Path, registry: Registry, clock: Clock, then: str
) -> None:
    """The HEAD names a manifest that is deleted before the GET: the tag itself is asked then (U27). It is not gone
    because a manifest is; where it really is, `on_not_found` decides.
    """
    first, second, third = (manifest(blob(number)) for number in (100, 101, 102))
    registry.add(APP, "1", first)
    async with proxied(cache_dir, registry, clock, "tags: {on_not_found: deny}\nhydrate: {image: none}\n") as proxy:
        assert (await proxy.ask(f"{APP}/manifests/1")).body == first.manifest.data
        clock.advance(61)
        registry.script("1", script.set_header("Docker-Content-Digest", str(second.digest)), times=1, methods=("HEAD",))
        if then == "moved on":
            registry.add(APP, "1", third)
        else:
            registry.script("1", script.error(404, "MANIFEST_UNKNOWN"))
        asked = await proxy.start(f"{APP}/manifests/1")
        body = await asked.rest()
        assert asked.status == (200 if then == "moved on" else 404)
        if then == "moved on":
            assert body == third.manifest.data
            assert (await proxy.ask(f"{APP}/manifests/1")).headers["Docker-Content-Digest"] == str(third.digest)


async def test_a_check_that_ends_as_its_time_is_up_is_not_the_last(
    proxy: Proxy, image: Image, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check that ends in the very turn in which `check_within` is over: the next client's request checks again."""
    await proxy.ask(TAG)
    clock.advance(61)
    tags, route = proxy.rooms.tags, proxy.rooms.rules.route_in(UPSTREAM, Place(UPSTREAM, APP))
    assert route is not None
    at_once = replace(route, tags=replace(route.tags, check_within_s=0.0))
    checked: list[str] = []

    async def check(_route: Route, tag: str, record: TagRecord) -> tuple[TagRecord, Outcome]:
        checked.append(tag)
        return record, Outcome(result=Result.HIT)

    monkeypatch.setattr(tags, "_check", check)
    for _ in range(3):
        assert (await tags.resolve(at_once, "1", want_body=False)).descriptor.digest == image.digest
    assert checked == ["1"] * 3
