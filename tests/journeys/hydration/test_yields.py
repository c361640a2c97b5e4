"""Hydration yields: clients have the last of the quota, the transfer under way, and the turn before it."""

from pathlib import Path

from proxy.downloads.bell import Bell
from proxy.downloads.transfer import Origin, Reader, Transfer
from proxy.downloads.turns import Turns
from proxy.events import HydrationEnded
from proxy.rules import Source
from tests.support.clock import Clock
from tests.support.hydrated import APP, hydrated
from tests.support.images import Image, blob, manifest
from tests.support.proxy import Proxy, proxied
from tests.support.registry import Registry
from tests.support.waiting import settled
from tests.support.wire import Answer, Recorded


async def test_hydration_leaves_clients_the_last_of_the_quota(
    cache_dir: Path, registry: Registry, clock: Clock, image: Image
) -> None:
    """A fifth of the pulls is left: what nobody waits for waits, however long, and no wait is an attempt; clients
    go on; with the quota back the image is made whole.
    """
    left = {"value": "20;w=21600"}

    def told(_request: Recorded, answer: Answer) -> Answer:
        limited = answer.with_header("RateLimit-Limit", "100;w=21600")
        return limited.with_header("RateLimit-Remaining", left["value"])

    registry.quirk = told
    async with proxied(cache_dir, registry, clock) as proxy:
        await proxy.ask(f"{APP}/manifests/1")
        await proxy.pull(image.blobs[0])
        for _ in range(12):
            (job,) = await proxy.rooms.hydrate.postponed()
            assert (job.attempts, "left to clients" in (job.error or "")) == (0, True)
            clock.advance(700)
            proxy.rooms.hydrate.wake()
        asked = {blob.digest for blob in image.blobs if registry.requests_for(blob.digest)}
        assert asked == {image.blobs[0].digest}
        assert (await proxy.pull(image.blobs[1])).status == 200
        left["value"] = "90;w=21600"
        assert (await proxy.ask(f"{APP}/manifests/1")).status == 200
        clock.advance(700)
        proxy.rooms.hydrate.wake()
        (ended,) = await hydrated(proxy)
        assert ended.result == "done"


async def test_a_client_takes_over_what_is_being_hydrated(proxy: Proxy, registry: Registry, image: Image) -> None:
    """A blob that hydration is fetching is joined by the client that asks for it: still one transfer."""
    last = image.blobs[-1]
    gate = registry.hold(last.digest, after_bytes=1000)
    await proxy.ask(f"{APP}/manifests/1")
    await proxy.pull(image.blobs[0])
    await gate.reached()
    pulling = await proxy.start_pull(last)
    assert await pulling.head() == 200
    assert pulling.headers["Cache-Status"].endswith("collapsed; stored")
    gate.open()
    assert await pulling.rest() == last.data
    assert registry.requests_for(last.digest) == 1
    await proxy.quiet()


async def test_hydration_does_not_start_beside_a_client(proxy: Proxy, registry: Registry, image: Image) -> None:
    """While a client's cold transfer runs the upstream is asked for nothing in the background; then it is."""
    proxy.hear(HydrationEnded)
    other = registry.add_blob(APP, blob(500_000, seed=2))
    held = registry.hold(other.digest, after_bytes=100_000)
    client = await proxy.start_pull(other)
    await held.reached()
    await proxy.ask(f"{APP}/manifests/1")
    await proxy.pull(image.blobs[0])
    await proxy.rooms.hydrate.heard()
    await settled()
    assert [registry.requests_for(part.digest) for part in image.layers] == [0, 0, 0]
    held.open()
    assert await client.rest() == other.data
    await hydrated(proxy)
    assert [registry.requests_for(part.digest) for part in image.layers] == [1, 1, 1]


async def test_hydration_hangs_up_for_a_client(proxy: Proxy, registry: Registry) -> None:
    """A background transfer that a client overtakes hangs up, and goes on by Range where it was."""
    proxy.hear(HydrationEnded)
    image = registry.add(APP, "big", manifest(blob(100), blob(8_000_000, seed=1)))
    background, other = image.blobs[2], registry.add_blob(APP, blob(500_000, seed=2))
    started, held = registry.hold(background.digest, after_bytes=100_000), registry.hold(other.digest, after_bytes=1000)
    await proxy.ask(f"{APP}/manifests/big")
    await proxy.pull(image.blobs[1])
    await started.reached()
    client = await proxy.start_pull(other)
    await held.reached()
    started.open()
    held.open()
    assert await client.rest() == other.data
    await hydrated(proxy)
    assert proxy.stored(background.digest) == background.data
    assert registry.requests_for(other.digest) == 1
    begun, *resumed = registry.recorded(background.digest)
    assert "Range" not in begun.headers
    assert all(request.headers["Range"] != "bytes=0-" for request in resumed)


def test_turns_are_given_by_readers() -> None:
    """Only a transfer without readers gives way, only to an unsettled one that has some, and not within its slice."""
    calm = Bell()
    source = Source("up.example", "team/app")
    behind, ahead = (Transfer(blob(10, seed=seed).digest, Origin(source), calm) for seed in range(2))
    now = Clock(100.0)
    turns = Turns({behind.digest: behind, ahead.digest: ahead}, calm, now)
    assert not turns.must_yield(behind)
    reader = Reader(ahead, source)
    assert turns.must_yield(behind)
    assert not turns.must_yield(ahead)
    behind.slice_ends = 100.5
    assert not turns.must_yield(behind)
    now.advance(0.6)
    assert turns.must_yield(behind)
    joined = Reader(behind, source)
    assert not turns.must_yield(behind)
    joined.close()
    reader.close()
    assert not turns.must_yield(behind)
