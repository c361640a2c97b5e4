"""Hydration through the whole proxy: the rest of an image follows once a client means to pull it, and only then."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest

from proxy.downloads.bell import Bell
from proxy.downloads.transfer import Origin, Reader, Transfer
from proxy.downloads.turns import Turns
from proxy.events import HydrationEnded
from proxy.hydrate import BACKOFF_S
from proxy.oci import OCI_MANIFEST, Digest
from proxy.rules import Route, Source
from proxy.store.base import Job, Parent
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Image, blob, index, manifest
from tests.support.proxy import UPSTREAM, Proxy, proxied
from tests.support.registry import Registry
from tests.support.site import settled
from tests.support.wire import Answer, Recorded

APP = "team/app"


@pytest.fixture
def image(registry: Registry) -> Image:
    """An image of a config and three layers."""
    return registry.add(APP, "1", manifest(*(blob(100_000 + seed, seed=seed) for seed in range(3))))


async def hydrated(proxy: Proxy, count: int = 1) -> list[HydrationEnded]:
    """Wait until `count` hydrations have ended, and nothing runs any more."""
    ended = asyncio.Event()
    found: list[HydrationEnded] = [event for event in proxy.heard if isinstance(event, HydrationEnded)]

    def hear(event: HydrationEnded) -> None:
        found.append(event)
        if len(found) >= count:
            ended.set()

    proxy.rooms.events.listen(HydrationEnded, hear)
    if len(found) < count:
        await ended.wait()
    await proxy.quiet()
    return found


async def test_one_blob_asked_for_brings_the_whole_image(proxy: Proxy, registry: Registry, image: Image) -> None:
    """A manifest by GET and one blob of it: config and all layers are fetched, each once, and the image is whole."""
    proxy.hear(HydrationEnded)
    await proxy.ask(f"{APP}/manifests/1")
    await proxy.pull(image.blobs[0])
    (ended,) = await hydrated(proxy)
    assert (ended.result, ended.manifest) == ("done", image.digest)
    for part in image.blobs:
        assert proxy.stored(part.digest) == part.data
        assert registry.requests_for(part.digest) == 1


async def test_a_crawler_fills_no_disk(proxy: Proxy, registry: Registry, image: Image) -> None:
    """HEADs, indexes and manifests alone queue nothing."""
    multi = registry.add(APP, "multi", index(manifest(blob(1000)), manifest(blob(1001))))
    for tag in ("1", "multi"):
        await proxy.ask(f"{APP}/manifests/{tag}", method="HEAD")
        await proxy.ask(f"{APP}/manifests/{tag}")
    await proxy.ask(f"{APP}/blobs/{image.blobs[0].digest}", method="HEAD")
    await proxy.rooms.hydrate.heard()
    assert await proxy.rooms.hydrate.queued() == []
    assert not [part for part in (*image.all_blobs(), *multi.all_blobs()) if proxy.stored(part.digest)]


async def test_only_the_pulled_platform_is_fetched(proxy: Proxy, registry: Registry) -> None:
    """Of an index only the platform whose manifest and blob were asked for is hydrated."""
    proxy.hear(HydrationEnded)
    amd, arm = manifest(blob(1000), blob(1001)), manifest(blob(2000), blob(2001), architecture="arm64")
    registry.add(APP, "multi", index(amd, arm))
    await proxy.ask(f"{APP}/manifests/multi")
    await proxy.ask(f"{APP}/manifests/{amd.digest}")
    await proxy.pull(amd.blobs[0])
    await hydrated(proxy)
    assert all(proxy.stored(part.digest) for part in amd.blobs)
    assert not any(proxy.stored(part.digest) for part in arm.blobs)


async def test_hydrate_none_fetches_nothing_by_itself(cache_dir: Path, registry: Registry, image: Image) -> None:
    """With `hydrate: {image: none}` only what clients ask for is fetched."""
    async with proxied(cache_dir, registry, extra="hydrate: {image: none}") as proxy:
        await proxy.ask(f"{APP}/manifests/1")
        await proxy.pull(image.blobs[0])
        await proxy.rooms.hydrate.heard()
        assert await proxy.rooms.hydrate.queued() == []


async def test_unfinished_jobs_go_on_after_a_restart(cache_dir: Path, registry: Registry, image: Image) -> None:
    """A server that ends in mid-hydration leaves its job; the next one ends it without being asked."""
    last = image.blobs[-1]
    gate = registry.hold(last.digest, after_bytes=1000)
    async with proxied(cache_dir, registry) as proxy:
        await proxy.ask(f"{APP}/manifests/1")
        await proxy.pull(image.blobs[0])
        await gate.reached()
    registry.heal()
    async with proxied(cache_dir, registry) as proxy:
        (ended,) = await hydrated(proxy)
        assert ended.result == "done"
        assert all(proxy.stored(part.digest) == part.data for part in image.blobs)


async def test_a_parked_queue_begins_nothing_and_forgets_nothing(
    proxy: Proxy, registry: Registry, image: Image
) -> None:
    """What was at work is let go of, as if it had never been tried; what comes after waits; clients are served."""
    other = registry.add("team/other", "1", manifest(blob(500, seed=7), blob(600, seed=8)))
    gate = registry.hold(image.blobs[-1].digest, after_bytes=1000)
    await proxy.ask(f"{APP}/manifests/1")
    await proxy.pull(image.blobs[0])
    await gate.reached()
    proxy.rooms.hydrate.park()
    await proxy.ask("team/other/manifests/1")
    assert (await proxy.pull(other.blobs[0], "team/other")).status == 200
    await proxy.rooms.hydrate.heard()
    await settled()
    jobs = await proxy.rooms.hydrate.queued()
    assert {(job.manifest, job.attempts) for job in jobs} == {(image.digest, 0), (other.digest, 0)}
    assert registry.requests_for(other.blobs[1].digest) == 0
    gate.open()


async def test_hopeless_jobs_end_visibly(proxy: Proxy, registry: Registry, image: Image) -> None:
    """A layer that the upstream denies ends the job as failed, with the reason, and what could be had is kept."""
    proxy.hear(HydrationEnded)
    registry.script(image.blobs[-1].digest, script.error(404, "BLOB_UNKNOWN"))
    await proxy.ask(f"{APP}/manifests/1")
    await proxy.pull(image.blobs[0])
    (ended,) = await hydrated(proxy)
    assert ended.result == "failed"
    assert str(image.blobs[-1].digest) in (ended.detail or "")
    assert await proxy.rooms.hydrate.queued() == []
    assert all(proxy.stored(part.digest) for part in image.blobs[:-1])


async def test_an_outage_postpones(cache_dir: Path, registry: Registry, clock: Clock, image: Image) -> None:
    """An upstream that is away postpones a job with growing pauses; when it is back the job is done."""
    async with proxied(cache_dir, registry, clock) as proxy:
        registry.script(image.blobs[-1].digest, script.error(503))
        await proxy.ask(f"{APP}/manifests/1")
        await proxy.pull(image.blobs[0])
        (job,) = await proxy.rooms.hydrate.postponed()
        assert (job.attempts, job.state) == (1, "queued")
        assert clock() < job.due_at <= clock() + 20
        registry.heal()
        clock.advance(3600)
        proxy.rooms.hydrate.wake()
        (ended,) = await hydrated(proxy)
        assert ended.result == "done"


async def test_an_index_that_cannot_be_read_postpones(
    cache_dir: Path, registry: Registry, clock: Clock, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to know what an image holds is not to have all of it: the job is tried again, and then really done."""
    async with proxied(cache_dir, registry, clock) as proxy:
        index = proxy.rooms.disk.index

        async def unreadable(*_: object) -> None:
            return None

        monkeypatch.setattr(index, "children_of", unreadable)
        await proxy.ask(f"{APP}/manifests/1")
        await proxy.pull(image.blobs[0])
        (job,) = await proxy.rooms.hydrate.postponed()
        assert (job.attempts, job.state) == (1, "queued")
        monkeypatch.undo()
        clock.advance(3600)
        proxy.rooms.hydrate.wake()
        (ended,) = await hydrated(proxy)
        assert ended.result == "done"
        assert all(proxy.stored(part.digest) for part in image.blobs)


@pytest.mark.parametrize("jump_s", [-3600.0 * 3, -1_800_000_000.0], ids=["hours back", "to 1970"])
async def test_a_clock_that_goes_back_postpones_nothing_for_ever(
    cache_dir: Path, registry: Registry, clock: Clock, image: Image, jump_s: float
) -> None:
    """A job that was put off by a clock far ahead is due now, not in decades."""
    async with proxied(cache_dir, registry, clock) as proxy:
        registry.script(image.blobs[-1].digest, script.error(503))
        await proxy.ask(f"{APP}/manifests/1")
        await proxy.pull(image.blobs[0])
        await proxy.rooms.hydrate.postponed()
        registry.heal()
        clock.advance(60)
        clock.advance(jump_s)
        proxy.rooms.hydrate.wake()
        (ended,) = await hydrated(proxy)
        assert ended.result == "done"


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


async def test_an_image_that_is_whole_makes_no_job(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """A client that asks for a blob of an image that is all here queues nothing, and nobody waits for its end."""
    proxy.hear(HydrationEnded)
    for part in image.blobs:
        await proxy.pull(part)
    await proxy.quiet()
    clock.advance(601)  # a blob that was asked for is looked at again
    await proxy.ask(f"{APP}/manifests/1")
    await proxy.pull(image.blobs[0])
    await proxy.rooms.hydrate.finished()
    assert proxy.heard == []
    assert await proxy.rooms.ground.index.jobs() == []


async def test_an_image_that_could_not_be_kept_at_first_is_hydrated_later(
    proxy: Proxy, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest that the disk refused is noted when it is fetched again and kept."""
    proxy.hear(HydrationEnded)

    async def refuse(*_: object) -> str:
        return "disk"

    with monkeypatch.context() as patched:
        patched.setattr(proxy.rooms.manifests, "_keep", refuse)
        assert (await proxy.ask(f"{APP}/manifests/1")).status == 200
        await proxy.rooms.hydrate.heard()
    assert (await proxy.ask(f"{APP}/manifests/1")).status == 200
    await proxy.pull(image.blobs[0])
    await proxy.rooms.hydrate.finished()
    assert [ended.result for ended in proxy.heard if isinstance(ended, HydrationEnded)] == ["done"]


async def test_a_job_whose_end_the_index_refuses_rests(
    cache_dir: Path, registry: Registry, clock: Clock, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the index takes no word, a job that it shows as due is tried once per pause, however often it is woken;
    its end is told once it is kept.
    """
    async with proxied(cache_dir, registry, clock) as proxy:
        hydrate, tried = proxy.rooms.hydrate, asyncio.Semaphore(0)
        proxy.hear(HydrationEnded)

        async def refuse(_job: Job) -> bool:
            tried.release()
            return False

        with monkeypatch.context() as patched:
            patched.setattr(proxy.rooms.ground.index, "save_job", refuse)
            await proxy.ask(f"{APP}/manifests/1")
            await proxy.pull(image.blobs[0])
            await tried.acquire()
            looked = asyncio.Semaphore(0)

            async def look(signal: Awaitable[object], _seconds: float) -> None:
                await settled()
                looked.release()
                await signal

            patched.setattr(hydrate, "_wait", look)
            attempts: list[Job] = []

            async def attempt(job: Job) -> Job:
                attempts.append(job)
                return job

            patched.setattr(hydrate, "_attempt", attempt)
            for _ in range(3):
                hydrate.wake()
                await looked.acquire()
            assert attempts == []
            clock.advance(BACKOFF_S)
            hydrate.wake()
            await tried.acquire()
            assert len(attempts) == 1
            assert proxy.heard == []
        clock.advance(BACKOFF_S)
        hydrate.wake()
        await hydrate.finished()
        assert [ended.result for ended in proxy.heard if isinstance(ended, HydrationEnded)] == ["done"]


async def test_an_image_of_very_many_layers_takes_no_more_tasks_than_blobs_at_a_time(
    proxy: Proxy, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest may name tens of thousands of blobs: each is fetched once, and none takes a task before its turn."""
    proxy.hear(HydrationEnded)
    await proxy.ask(f"{APP}/manifests/1")
    await proxy.rooms.hydrate.heard()
    [(place, _)] = proxy.rooms.hydrate._noted
    many = [(Digest.of(b"%d" % number), number, False) for number in range(2000)]
    await proxy.rooms.ground.index.save_manifest(Parent(place, image.digest, OCI_MANIFEST, 1.0), many)
    asked: list[Digest] = []
    begun, opened = asyncio.Semaphore(0), asyncio.Event()

    async def fill(_route: Route, digest: Digest, _size: int) -> None:
        asked.append(digest)
        begun.release()
        await opened.wait()

    monkeypatch.setattr(proxy.rooms.pull, "fill", fill)
    await proxy.rooms.ground.index.enqueue(
        Job(place=place, rule=UPSTREAM, manifest=image.digest, queued_at=1.0, due_at=1.0)
    )
    proxy.rooms.hydrate.wake()
    for _ in range(4):
        await begun.acquire()
    await settled()
    assert len(asked) == 4
    assert len(asyncio.all_tasks()) < 100
    opened.set()
    await proxy.rooms.hydrate.finished()
    assert asked == [digest for digest, _, _ in many]
    assert [ended.result for ended in proxy.heard if isinstance(ended, HydrationEnded)] == ["done"]


async def test_a_clock_that_was_far_ahead_keeps_no_image_from_hydration(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """What was asked for while the clock was decades ahead is looked at again ten minutes later, by any clock."""
    proxy.hear(HydrationEnded)
    registry.script(image.blobs[-1].digest, script.error(404))
    clock.advance(1e9)
    await proxy.ask(f"{APP}/manifests/1")
    await proxy.pull(image.blobs[0])
    await proxy.rooms.hydrate.finished()
    registry.heal()
    clock.advance(-1e9)
    clock.advance(700)
    await proxy.pull(image.blobs[0])
    await proxy.rooms.hydrate.finished()
    assert [ended.result for ended in proxy.heard if isinstance(ended, HydrationEnded)] == ["failed", "done"]
