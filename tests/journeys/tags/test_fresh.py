"""Tags through the whole proxy: fresh, checked, moved, gone and denied; time is turned by hand."""

import asyncio
from pathlib import Path

import pytest

from proxy.events import TagMoved
from proxy.manifests import Held
from proxy.oci import Digest
from proxy.rules import Place
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, proxied
from tests.support.registry import Registry
from tests.support.tagged import APP, HELD, TAG, counts
from tests.support.wire import Fault, Gate


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


async def test_who_read_before_a_check_ended_does_not_check_again(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a crowd, one may still look at what is here while the others' check begins and ends."""
    await proxy.ask(TAG)
    clock.advance(61)
    manifests, gate = proxy.rooms.manifests, Gate()
    held, late = manifests.held, [True]

    async def look(place: Place, digest: Digest) -> Held | None:
        if late:
            late.clear()
            await gate.stand()
        return await held(place, digest)

    monkeypatch.setattr(manifests, "held", look)
    slow = asyncio.ensure_future(proxy.ask(TAG, method="HEAD"))
    await gate.reached()
    await proxy.ask(TAG, method="HEAD")
    gate.open()
    assert (await slow).headers["Cache-Status"] == "cistern-test; fwd=stale; fwd-status=304"
    assert counts(registry) == (1, 1)
