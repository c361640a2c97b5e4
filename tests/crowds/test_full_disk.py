"""A real disk that is full, out of inodes, read-only or gone: clients get their bytes, and writing recovers."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.events import NotStored, StorageDegraded, StorageRecovered
from proxy.store.threads import ANSWER_WITHIN_S, DISK_THREADS
from proxy.tasks import Tasks
from tests.support.clock import Clock
from tests.support.images import blob, manifest
from tests.support.kept import Kept
from tests.support.proxy import Proxy, config_text, running
from tests.support.registry import Registry
from tests.support.volume import Volume, read_only, volume

MIB = 1 << 20
REPOSITORY = "team/app"
BIG = "cache: {max_size: 100%, keep_free: 0B, "
QUIET = "hydrate: {image: none}\n"


@pytest.fixture
def disk(short_tmp: Path) -> Iterator[Volume]:
    """A disk of 16 MiB."""
    with volume(short_tmp / "disk", "16m") as mounted:
        yield mounted


@asynccontextmanager
async def proxied(disk: Volume, registry: Registry, clock: Clock, keys: str = BIG) -> AsyncIterator[Proxy]:
    text = config_text(disk.root / "cache", registry, QUIET).replace("cache: {", keys)
    async with running(text, clock) as proxy:
        proxy.hear(NotStored, StorageDegraded, StorageRecovered)
        yield proxy


def take_every_inode(folder: Path) -> None:
    for number in range(100_000):
        (folder / str(number)).touch()


def reasons(proxy: Proxy) -> set[str]:
    return {event.reason for event in proxy.heard if isinstance(event, NotStored)}


async def test_a_disk_that_others_fill_in_mid_transfer(disk: Volume, registry: Registry, clock: Clock) -> None:
    """ENOSPC in the middle: the same connection gets every byte; when there is room again, the blob is kept (F03)."""
    wanted = registry.add_blob(REPOSITORY, blob(6 * MIB))
    async with proxied(disk, registry, clock) as proxy:
        gate = registry.hold(wanted.digest, after_bytes=2 * MIB, times=1)
        pulls = [await proxy.start_pull(wanted, **({"Range": f"bytes={at}-"} if at else {})) for at in (0, 0, 4 * MIB)]
        await gate.reached()
        others = disk.root / "others"
        disk.fill(others, MIB)
        gate.open()
        bodies = await asyncio.gather(*(pulling.rest() for pulling in pulls))
        assert bodies == [wanted.data, wanted.data, wanted.data[4 * MIB :]]
        await proxy.quiet()
        assert reasons(proxy) == {"disk_full"}
        assert list(proxy.rooms.disk.parts.iterdir()) == []
        assert (await proxy.pull(wanted)).body == wanted.data
        others.unlink()
        await proxy.rooms.capacity.trouble.try_now()
        await proxy.rooms.capacity.look()
        assert (await proxy.pull(wanted)).body == wanted.data
        await proxy.quiet()
        assert proxy.stored(wanted.digest) == wanted.data
        kinds = [type(event) for event in proxy.heard if not isinstance(event, NotStored)]
        assert kinds == [StorageDegraded, StorageRecovered]


async def test_what_is_kept_free_is_left_to_others(disk: Volume, registry: Registry, clock: Clock) -> None:
    """A cache that would leave less free than `keep_free` gives way: it evicts, and what does not fit streams."""
    images = [registry.add(REPOSITORY, str(n), manifest(blob(2 * MIB, seed=n))) for n in range(1, 5)]
    async with proxied(disk, registry, clock, "cache: {max_size: 100%, keep_free: 4MiB, ") as proxy:
        rooms = Kept.over(proxy)
        for number, image in enumerate(images[:2], 1):
            await rooms.pull(image, str(number))
            clock.advance(900)
        assert {number for number, image in enumerate(images, 1) if rooms.has(image.layers[0].digest)} == {1, 2}
        disk.fill(disk.root / "others", 5 * MIB)
        clock.advance(900)
        await proxy.rooms.capacity.look()
        await rooms.pull(images[2], "3")
        await proxy.rooms.make_room.round()
        room = os.statvfs(disk.root)
        assert room.f_bavail * room.f_frsize >= 4 * MIB


async def test_a_disk_without_inodes(short_tmp: Path, registry: Registry, clock: Clock) -> None:
    """No file can be made: bodies and manifests are served and told as not kept (F39)."""
    image = registry.add(REPOSITORY, "1", manifest(blob(300_000)))
    with volume(short_tmp / "disk", "32m", files=600) as disk:
        async with proxied(disk, registry, clock) as proxy:
            many = disk.root / "many"
            many.mkdir()
            with pytest.raises(OSError, match="No space left"):
                take_every_inode(many)
            assert (await proxy.ask(f"{REPOSITORY}/manifests/1")).body == image.manifest.data
            assert (await proxy.pull(image.layers[0])).body == image.layers[0].data
            await proxy.quiet()
            assert reasons(proxy) == {"disk_full"}
            shutil.rmtree(many)
            await proxy.rooms.capacity.trouble.try_now()
            assert (await proxy.pull(image.layers[0])).body == image.layers[0].data
            await proxy.quiet()
            assert proxy.stored(image.layers[0].digest) == image.layers[0].data


async def test_a_disk_that_turns_read_only(disk: Volume, registry: Registry, clock: Clock) -> None:
    """EROFS: what is here is served from here, what is not streams; writing comes back without a restart (F04)."""
    held, cold = registry.add_blob(REPOSITORY, blob(500_000, seed=1)), registry.add_blob(REPOSITORY, blob(MIB, seed=2))
    async with proxied(disk, registry, clock) as proxy:
        assert (await proxy.pull(held)).body == held.data
        await proxy.quiet()
        registry.forget()
        with read_only(proxy.rooms.disk.parts):
            assert (await proxy.pull(held)).headers["Cache-Status"].endswith("; hit")
            assert registry.requests_for(held.digest) == 0
            for _ in range(2):
                assert (await proxy.pull(cold)).body == cold.data
            assert reasons(proxy) == {"disk_read_only"}
        await proxy.rooms.capacity.trouble.try_now()
        assert (await proxy.pull(cold)).body == cold.data
        await proxy.quiet()
        assert proxy.stored(cold.digest) == cold.data


async def test_a_disk_that_is_gone(disk: Volume, registry: Registry, clock: Clock) -> None:
    """The folder of the parts is no more: bodies stream until somebody puts it back."""
    cold = registry.add_blob(REPOSITORY, blob(MIB))
    async with proxied(disk, registry, clock) as proxy:
        proxy.rooms.disk.parts.rmdir()
        assert (await proxy.pull(cold)).body == cold.data
        assert reasons(proxy) == {"disk"}
        proxy.rooms.disk.parts.mkdir(0o700)
        await proxy.rooms.capacity.trouble.try_now()
        assert (await proxy.pull(cold)).body == cold.data
        await proxy.quiet()
        assert proxy.stored(cold.digest) == cold.data


async def test_a_disk_that_hangs(disk: Volume, registry: Registry, clock: Clock) -> None:
    """Every disk thread stands: what is here is fetched again, what is not streams; no client waits for the disk."""
    held, cold = registry.add_blob(REPOSITORY, blob(500_000, seed=1)), registry.add_blob(REPOSITORY, blob(MIB, seed=2))
    async with proxied(disk, registry, clock) as proxy, Tasks() as tasks:
        assert (await proxy.pull(held)).body == held.data
        await proxy.quiet()
        threads = proxy.rooms.disk.threads
        threads.answer_within_s = 0.05
        stand = threading.Event()
        for _ in range(DISK_THREADS):
            tasks.start(threads.disk(stand.wait), name="hang", report=False)
        try:
            for wanted in (cold, held):
                answer = await proxy.pull(wanted)
                assert (answer.status, answer.body) == (200, wanted.data)
            assert "disk_slow" in reasons(proxy)
        finally:
            stand.set()
        threads.answer_within_s = ANSWER_WITHIN_S
        await proxy.rooms.capacity.trouble.try_now()
        await proxy.quiet()
        assert (await proxy.pull(held)).headers["Cache-Status"].endswith("; hit")
        assert (await proxy.pull(cold)).body == cold.data
        await proxy.quiet()
        assert proxy.stored(cold.digest) == cold.data
