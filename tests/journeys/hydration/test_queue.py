"""Hydration's queue: outlives restarts, outages and clocks; what has no hope ends visibly."""

import asyncio
from collections.abc import Awaitable
from pathlib import Path

import pytest

from proxy.events import HydrationEnded
from proxy.hydrate import BACKOFF_S
from proxy.store.base import Job
from tests.support import script
from tests.support.clock import Clock
from tests.support.hydrated import APP, hydrated
from tests.support.images import Image, blob, manifest
from tests.support.proxy import Proxy, proxied
from tests.support.registry import Registry
from tests.support.waiting import settled


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
