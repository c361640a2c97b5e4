"""A server process over a store that lost a file, or had one damaged, or is of an older version; upstream stopped."""

import asyncio
import json
import os
import random
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.cistern import CisternProcess, assert_store_true, stored
from tests.support.images import Image, blob, index, manifest
from tests.support.older import lay_out_version_1
from tests.support.pulling import Pulling
from tests.support.registry import Registry

HUB = "hub.test"
APP = "team/app"
LONG = pytest.mark.long


def config(registry: Registry) -> dict[str, Any]:
    upstream = {
        "endpoints": [{"url": registry.url}],
        "plain_http": True,
        "proxy": "none",
        "timeouts": {"connect": "1s", "headers": "1s", "stall": "1s"},
    }
    return {"upstreams": {HUB: upstream}, "tags": {"fresh_for": "0s"}}


def image_of(registry: Registry) -> Image:
    """An index of two images, so that the children of manifests count too."""
    images = [manifest(blob(50_000, seed=n), blob(900, seed=n + 9)) for n in range(2)]
    return registry.add(APP, "1", index(*images))


async def pull(server: CisternProcess, path: str) -> bytes:
    pulling = await Pulling.start(server.netloc, f"/v2/{HUB}/{APP}/{path}")
    body = await pulling.rest()
    assert pulling.status == 200, (path, pulling.status, body[:300])
    return body


async def pull_all(server: CisternProcess, image: Image) -> None:
    """A pull by tag, every manifest and blob, byte for byte."""
    assert await pull(server, "manifests/1") == image.manifest.data
    for part in image.all_manifests():
        assert await pull(server, f"manifests/{part.digest}") == part.data
    for part in image.all_blobs():
        assert await pull(server, f"blobs/{part.digest}") == part.data


async def committed(server: CisternProcess) -> None:
    """Nobody who pulls waits for the commit: wait until all of the image is known to be here."""
    async with asyncio.timeout(30):
        while not all(told["complete"] for told in json.loads((await server.command("images", "--json")).output)):
            pass


def delete(path: Path) -> None:
    path.unlink()


def garble(path: Path) -> None:
    path.write_bytes(random.Random(7).randbytes(max(4096, path.stat().st_size)))


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), 2048):  # one bit of every half page
        data[at] ^= 16
    path.write_bytes(data)


FILES = (
    "records.sqlite", "records.sqlite-wal", "records.sqlite-shm", "records.backup.sqlite", "records.changes",
    "index.sqlite", "index.sqlite-wal", "index.sqlite-shm",
)  # fmt: skip


@pytest.mark.parametrize(
    ("damage", "end"),
    [
        (delete, "killed"),
        (flip, "stopped"),
        *(
            pytest.param(how, end, marks=LONG)
            for how, end in ((delete, "stopped"), (flip, "killed"), *product((garble, halve), ("stopped", "killed")))
        ),
    ],
)
async def test_a_tag_pull_passes_whatever_file_is_lost(
    short_tmp: Path, registry: Registry, damage: Callable[[Path], None], end: str
) -> None:
    """Each file of records and index in turn, deleted or damaged, with the upstream stopped: the image pulls (F38)."""
    image = image_of(registry)
    server = CisternProcess(short_tmp / "home", config(registry))
    async with server:
        await pull_all(server, image)
        if end == "killed":
            await committed(server)
            await server.kill()
    await registry.stop()
    whole = short_tmp / "whole"
    shutil.move(server.cache_dir, whole)
    for name in FILES:
        if not (whole / name).exists():
            continue
        shutil.copytree(whole, server.cache_dir, ignore=shutil.ignore_patterns("*.sock"))
        damage(server.cache_dir / name)
        async with server:
            await pull_all(server, image)
        assert_store_true(server.cache_dir)
        shutil.rmtree(server.cache_dir)


@pytest.mark.parametrize("name", ["lock", "boot", "parts", "quarantine"])
async def test_what_is_laid_out_at_the_start_may_be_gone(short_tmp: Path, registry: Registry, name: str) -> None:
    """The small files and folders of the layout come back by themselves, and the image pulls."""
    image = image_of(registry)
    server = CisternProcess(short_tmp / "home", config(registry))
    async with server:
        await pull_all(server, image)
    await registry.stop()
    path = server.cache_dir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    async with server:
        await pull_all(server, image)
        assert path.exists()


async def test_an_older_store_is_upgraded_in_place(short_tmp: Path, registry: Registry) -> None:
    """A store of version 1, the upstream stopped: its image pulls, nothing is fetched, and its stamp is the new one."""
    image = image_of(registry)
    server = CisternProcess(short_tmp / "home", config(registry))
    lay_out_version_1(server.cache_dir, HUB, APP, "1", image, checked_at=2.0)
    await registry.stop()
    for _ in range(2):
        async with server:
            assert await pull(server, "manifests/1") == image.manifest.data
            for part in image.all_blobs():
                assert await pull(server, f"blobs/{part.digest}") == part.data
    assert (server.cache_dir / "version").read_text() == "cistern store 2\n"
    assert stored(server.cache_dir) == {part.digest for part in (*image.all_manifests(), *image.all_blobs())}
    upgrades = [line for line in server.log_lines() if line["event"] == "the store is upgraded in place"]
    assert [line["before"] for line in upgrades] == ["cistern store 1"]


async def test_a_newer_store_is_refused_untouched(short_tmp: Path, registry: Registry) -> None:
    """What a later Cistern wrote: exit code and one line; not a byte, name or time in it changes (F40)."""
    image = image_of(registry)
    server = CisternProcess(short_tmp / "home", config(registry))
    async with server:
        await pull_all(server, image)
    (server.cache_dir / "version").write_text("cistern store 99\n")
    before = tree(server.cache_dir)
    with pytest.raises(AssertionError, match="written by a newer Cistern"):
        await server.start()
    assert tree(server.cache_dir) == before


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path.relative_to(root)): (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }


async def test_a_second_server_is_refused_by_pid(short_tmp: Path, registry: Registry) -> None:
    """Two processes on one directory: the second names the first one's pid, and the first goes on (F26)."""
    image = image_of(registry)
    first = CisternProcess(short_tmp / "first", config(registry))
    second = CisternProcess(short_tmp / "second", config(registry))
    second.cache_dir = first.cache_dir
    async with first:
        with pytest.raises(AssertionError, match=f"in use by another server, pid {first.pid}"):
            await second.start()
        await pull_all(first, image)
        await first.kill()
        async with second:
            await pull_all(second, image)
