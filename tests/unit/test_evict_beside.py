"""Dropping an image beside others' work: readers, arrivals, hydration, another eviction, a disk that refuses."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from proxy.events import Evicted
from proxy.oci import Digest
from proxy.store.base import Job
from tests.support.clock import Clock
from tests.support.evicting import BASE, NAME, PLACE, digests_of, held, links
from tests.support.images import layer, manifest
from tests.support.kept import REPOSITORY, kept
from tests.support.proxy import UPSTREAM
from tests.support.registry import Registry


async def test_a_reader_keeps_what_it_reads(registry: Registry, cache_dir: Path) -> None:
    """An open blob is readable to its end after its eviction (F23)."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        opened = await rooms.proxy.rooms.disk.blobs.read(BASE.digest)
        assert opened is not None
        try:
            await rooms.evict.named(f"{NAME}:1")
            assert not rooms.has(BASE.digest)
            assert opened.file.readall() == BASE.data
        finally:
            opened.close()


async def test_an_image_that_arrives_during_the_look_keeps_its_layers(
    registry: Registry, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look did not see that it shares the base: its pull tells."""
    one = registry.add(REPOSITORY, "1", manifest(BASE, layer({"one": b"1"})))
    two = registry.add(REPOSITORY, "2", manifest(BASE, layer({"two": b"2"})))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(one)
        look = rooms.evict.look

        async def looked(*args: Any) -> Any:
            found = await look(*args)
            await rooms.pull(two, "2")
            return found

        monkeypatch.setattr(rooms.evict, "look", looked)
        await rooms.evict.named(f"{NAME}:1")
        assert held(rooms, one) == {BASE.digest}
        assert held(rooms, two) == digests_of(two)
        assert digests_of(two) <= await links(rooms)
        assert (await rooms.only()).complete


async def test_two_evictions_at_once_leave_nothing_behind(registry: Registry, cache_dir: Path) -> None:
    """Each would spare what the other's image shares: they go one after the other."""
    one = registry.add(REPOSITORY, "1", manifest(BASE, layer({"one": b"1"})))
    two = registry.add(REPOSITORY, "2", manifest(BASE, layer({"two": b"2"})))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(one)
        await rooms.pull(two, "2")
        await asyncio.gather(rooms.evict.named(f"{NAME}:1"), rooms.evict.named(f"{NAME}:2"))
        assert held(rooms, one, two) == set()
        assert await links(rooms) == set()


async def test_its_waiting_hydration_ends(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """The queue does not bring an evicted image back."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    later = clock() + 3600
    job = Job(place=PLACE, rule=UPSTREAM, manifest=image.digest, queued_at=clock(), due_at=later)
    other = Job(place=PLACE, rule=UPSTREAM, manifest=Digest.of(b"other"), queued_at=clock(), due_at=later)
    async with kept(cache_dir, registry, clock) as rooms:
        await rooms.pull(image)
        queue = rooms.proxy.rooms.disk.index
        await queue.enqueue(job)
        await queue.enqueue(other)
        await rooms.evict.named(f"{NAME}:1")
        assert [left.manifest for left in await queue.jobs("queued")] == [other.manifest]
        [ended] = await queue.jobs("failed")
    assert (ended.manifest, ended.error) == (image.digest, "its image was evicted")


async def test_a_disk_that_refuses_leaves_no_image_half_there(registry: Registry, cache_dir: Path) -> None:
    """The manifest went first: the image is refused there, and what stays is content that no image uses."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        shard = rooms.proxy.rooms.disk.blobs.path_of(BASE.digest)
        swap_for_folder(shard)
        with pytest.raises(OSError, match=BASE.digest.encoded):
            await rooms.evict.named(f"{NAME}:1")
        assert await rooms.images.listing() == []
        await registry.stop()
        for target in ("1", str(image.digest)):
            assert (await rooms.proxy.ask(f"{REPOSITORY}/manifests/{target}")).status == 503


async def test_a_disk_that_refuses_halfway_leaves_nobody_with_what_went(registry: Registry, cache_dir: Path) -> None:
    """Who has its files open is told of them all the same, and what went is counted: else it would free no space."""
    image = registry.add(REPOSITORY, "1", manifest(BASE, layer({"own": b"o"})))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        told: list[Evicted] = []
        rooms.proxy.rooms.events.listen(Evicted, told.append)
        last = max((found.digest for found in image.blobs), key=str)
        swap_for_folder(rooms.proxy.rooms.disk.blobs.path_of(last))
        with pytest.raises(OSError, match=last.encoded):
            await rooms.evict.named(f"{NAME}:1")
        parts = [found for found in (image.manifest, *image.blobs) if found.digest != last]
        went = [found for found in parts if not rooms.has(found.digest)]
        assert image.manifest in went
        assert [event.bytes for event in told] == [sum(found.size for found in went)]
        assert told[0].reach >= {found.digest for found in went}


def swap_for_folder(path: Path) -> None:
    """What stands at `path` cannot be unlinked, whoever tries."""
    path.unlink()
    path.mkdir()
