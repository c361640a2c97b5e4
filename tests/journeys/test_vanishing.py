"""The cache directory is deleted, emptied or swapped under a running server: it stands again by itself."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.rules import Place
from proxy.store.standing import stands
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, proxied
from tests.support.registry import Registry
from tests.support.waiting import until

APP = "team/app"


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add(APP, "1", manifest(blob(200_000), blob(1000, seed=1)))


async def pull(proxy: Proxy, image: Image) -> None:
    answer = await proxy.ask(f"{APP}/manifests/1")
    assert (answer.status, answer.body) == (200, image.manifest.data)
    for part in image.blobs:
        assert (await proxy.pull(part)).body == part.data
    await proxy.quiet()


async def standing_again(proxy: Proxy) -> None:
    owned = proxy.rooms.disk.directory
    await until(lambda: stands(owned.root, owned.lock))


async def kept_again(proxy: Proxy, image: Image) -> None:
    """Pull until all is stored: a disk that refused is probed before bodies go to it again."""
    async with asyncio.timeout(60):
        while not all(proxy.stored(part.digest) == part.data for part in (image.manifest, *image.blobs)):
            await pull(proxy, image)


def delete(root: Path) -> None:
    shutil.rmtree(root)


def empty(root: Path) -> None:
    for path in root.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def swap(root: Path) -> None:
    """As a file system mounted over it."""
    root.rename(root.with_name("away"))
    root.mkdir()


def swap_back(root: Path) -> None:
    root.rename(root.with_name("interim"))
    root.with_name("away").rename(root)


def names_in(root: Path) -> list[str]:
    return [path.name for path in root.iterdir()]


def lose(root: Path, name: str) -> None:
    for path in root.glob(f"{name}*"):
        path.unlink()


@pytest.mark.parametrize("vanish", [delete, empty, swap])
async def test_a_directory_that_vanishes_costs_no_pull(
    cache_dir: Path, registry: Registry, clock: Clock, image: Image, vanish: Callable[[Path], object]
) -> None:
    """Pulls pass at every moment; then content is kept again, and records outlive the next stop (F39)."""
    async with proxied(cache_dir, registry, clock) as proxy:
        await pull(proxy, image)
        vanish(cache_dir)
        await pull(proxy, image)
        await standing_again(proxy)
        await kept_again(proxy, image)
    await registry.stop()
    async with proxied(cache_dir, registry.url, clock) as proxy:
        await pull(proxy, image)


async def test_an_earlier_store_that_comes_back_is_taken(
    cache_dir: Path, registry: Registry, clock: Clock, image: Image
) -> None:
    """A mount that was lost and is back: what stands there is owned again, with its own records and content."""
    async with proxied(cache_dir, registry, clock) as proxy:
        await pull(proxy, image)
        before = registry.requests_for(image.layers[0].digest)
        await proxy.rooms.disk.records.backup()
        swap(cache_dir)
        await standing_again(proxy)
        swap_back(cache_dir)
        await standing_again(proxy)
        await pull(proxy, image)
        assert registry.requests_for(image.layers[0].digest) == before
    shutil.rmtree(cache_dir.with_name("interim"))


async def test_somebody_elses_directory_is_not_taken(
    cache_dir: Path, registry: Registry, clock: Clock, image: Image
) -> None:
    """What comes to the path and is not ours is left untouched; clients are served from the upstream."""
    async with proxied(cache_dir, registry, clock) as proxy:
        await pull(proxy, image)
        swap(cache_dir)
        (cache_dir / "thesis.txt").write_text("years of it")
        for _ in range(3):
            await pull(proxy, image)
        assert names_in(cache_dir) == ["thesis.txt"]
        (cache_dir / "thesis.txt").unlink()
        await standing_again(proxy)
        await pull(proxy, image)


@pytest.mark.parametrize("name", ["records.sqlite", "index.sqlite"])
async def test_a_database_deleted_at_work_is_brought_back(
    cache_dir: Path, registry: Registry, clock: Clock, image: Image, name: str
) -> None:
    """What is known is written to its place again, and is there after the next start."""
    async with proxied(cache_dir, registry, clock) as proxy:
        await pull(proxy, image)
        lose(cache_dir, name)
        await until((cache_dir / name).exists)
        await pull(proxy, image)
    await registry.stop()
    async with proxied(cache_dir, registry.url, clock) as proxy:
        await pull(proxy, image)
        place = Place(UPSTREAM, APP)
        assert await proxy.rooms.disk.index.size_of(place, image.layers[0].digest) == image.layers[0].size
