"""Hydration through the whole proxy: the rest of an image follows once a client means to pull it, and only then."""

import asyncio
from pathlib import Path

import pytest

from proxy.events import HydrationEnded
from proxy.oci import OCI_MANIFEST, Digest
from proxy.rules import Route
from proxy.store.base import Job, Parent
from tests.support.clock import Clock
from tests.support.hydrated import APP, hydrated
from tests.support.images import Image, blob, index, manifest
from tests.support.proxy import UPSTREAM, Proxy, proxied
from tests.support.registry import Registry
from tests.support.waiting import settled


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
