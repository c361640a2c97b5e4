"""The N-th write, sync, rename, unlink, mkdir, open or truncate of a real process fails or kills it (F01, F03, F06).

After every run the directory is whole (I2), the next start needs no repair (I10), and every pull that completed, in the
broken life and after it, had the right bytes (I1). A sample in the gate; every call of every kind in the long form.
"""

import asyncio
import random
import shutil
import signal
import time
from collections.abc import Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cistern import assert_image_whole, stored_path
from tests.support.images import Image, blob, manifest
from tests.support.injected import CALLS, FAULTS, InjectedCistern
from tests.support.nursery import Nursery
from tests.support.older import lay_out_version_1
from tests.support.proxy import running
from tests.support.pulling import Pulling
from tests.support.registry import Registry
from tests.support.volume import volume
from tests.support.whole import assert_directory_whole, assert_swept

HUB, APP = "hub.test", "team/app"
SAMPLE = 8  # lives in the gate
AT_ONCE = 4  # lives side by side: half of a life is waiting
TRIES = 16  # of a pull whose file never reads well
LAST = 400  # no life makes so many calls of one kind in one thread
KINDS = [kind for kind in CALLS if kind != "read"]
EACH = [(fault, sticky) for fault in FAULTS for sticky in (False, True) if not (sticky and fault == "kill")]


def config(registry: Registry) -> dict[str, Any]:
    hub = {"endpoints": [{"url": registry.url}], "plain_http": True, "proxy": "none"}
    return {"upstreams": {HUB: hub}, "hydrate": {"image": "none"}, "cache": {"max_size": "1GiB", "keep_free": "0%"}}


class Sweep:
    """One image, pulled through one life after the other, each on a directory of its own."""

    def __init__(self, base: Path, registry: Registry, nursery: Nursery) -> None:
        self._base = base
        self._nursery = nursery
        self._registry = registry
        self.image: Image = registry.add(APP, "1", manifest(blob(300_000), blob(20_000, seed=1)))
        self._lives = 0
        self.full_disks = 0  # lives that met one

    def server(self) -> InjectedCistern:
        """A server on a directory of its own."""
        self._lives += 1
        content = (self.image.manifest, *self.image.blobs)
        return InjectedCistern(self._nursery, self._base / str(self._lives), config(self._registry), content)

    async def life(self, kind: str, fault: str, when: int, *, sticky: bool) -> bool:
        """Live once under a fault, then once more untouched; whether the fault was met."""
        server = self.server()
        server.inject(kind, fault, when, sticky=sticky)
        hit = await self._broken(server, fault)
        if server.cache_dir.exists() and (server.cache_dir / "parts").exists():
            assert_directory_whole(server.cache_dir)
        await self.again(server.cache_dir, f"after {kind} {fault} {when}")
        shutil.rmtree(server.home)
        return hit

    async def life_on_a_full_disk(self, left: int, filled: str) -> bool:
        """Live once on a disk with so many bytes left, once more with plenty; whether all was kept the first time."""
        server = self.server()
        with volume(server.home / "disk", "8m") as disk:
            server.cache_dir = disk.root / "cache"
            others = disk.root / "others"
            if filled == "before the start":
                disk.fill(others, left)
            try:
                await server.start()
            except AssertionError as error:
                if "Traceback" in str(error):
                    raise
                said = str(error)
            else:
                if filled == "at work":
                    disk.fill(others, left)
                for target in self.targets():
                    assert await self.pulled(server.netloc, *target, tries=1), f"{target[0]} with {left} bytes left"
                assert await server.terminate() == 0
                assert_directory_whole(server.cache_dir)
                said = server.output()
            self.full_disks += "No space left" in said
            others.unlink()
            everything = (self.image.manifest, *self.image.blobs)
            kept = all(stored_path(server.cache_dir, part.digest).exists() for part in everything)
            await self.again(server.cache_dir, f"after {left} bytes were left")
        return kept

    async def life_of_an_older_store(self, kind: str, when: int) -> bool:
        """Start on a store of version 1 and be killed at a call of the upgrade; whether that call was met."""
        server = self.server()
        lay_out_version_1(server.cache_dir, HUB, APP, "1", self.image, checked_at=time.time())
        server.inject(kind, "kill", when)
        try:
            await server.start()
        except AssertionError as error:
            if "Traceback" in str(error):
                raise
            hit = True
        else:
            hit = await server.terminate() == -signal.SIGKILL
        await self.again(server.cache_dir, f"after an upgrade cut at {kind} {when}")
        assert (server.cache_dir / "version").read_text() == "cistern store 2\n"
        return hit

    def fetched(self) -> int:
        """How many requests for content went upstream."""
        return sum(self._registry.requests_for(part.digest) for part in self.image.blobs)

    async def again(self, cache_dir: Path, after: str) -> None:
        """The next start, in this process: nothing but what is on the disk comes over."""
        wanted = config(self._registry)
        wanted["cache"]["directory"] = str(cache_dir)
        async with running(yaml.safe_dump(wanted)) as proxy:
            for target in self.targets():
                assert await self.pulled(proxy.netloc, *target), f"{target[0]} {after}"
            await proxy.quiet()
        assert_directory_whole(cache_dir)
        assert_swept(cache_dir)
        assert_image_whole(cache_dir, self.image)

    async def _broken(self, server: InjectedCistern, fault: str) -> bool:
        try:
            await server.start()
        except AssertionError as error:  # it died, or refused in words, before it was ready
            if "Traceback" in str(error):
                raise
            return True
        for target in self.targets():
            await self.pulled(server.netloc, *target)
        if fault == "kill" and server.has_ended:
            assert await server.ended() == -signal.SIGKILL
            return True
        code = await server.terminate()
        assert code in (0, -signal.SIGKILL)
        return server.was_hit or code != 0

    def targets(self) -> list[tuple[str, bytes]]:
        found = [("manifests/1", self.image.manifest.data)]
        return found + [(f"blobs/{part.digest}", part.data) for part in self.image.blobs]

    async def pulled(self, netloc: str, path: str, wanted: bytes, tries: int = 3) -> bool:
        """Whether a pull completed within a few tries; what completes is right (I1)."""
        for _ in range(tries):
            try:
                pulling = await Pulling.start(netloc, f"/v2/{HUB}/{APP}/{path}")
                body = await pulling.rest()
            except (OSError, asyncio.IncompleteReadError):
                continue
            if pulling.status == 200:
                assert body == wanted, f"a wrong body of {path} completed"
                return True
        return False


async def together(lives: Iterable[Coroutine[Any, Any, bool]]) -> list[bool]:
    """Live them side by side; whether each met its fault. The first failure ends all."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(life) for life in lives]
    return [task.result() for task in tasks]


@pytest.fixture
def sweep(short_tmp: Path, registry: Registry) -> Iterator[Sweep]:
    with Nursery() as nursery:
        yield Sweep(short_tmp, registry, nursery)


async def test_a_sample_of_calls_that_fail_or_kill(sweep: Sweep) -> None:
    """A few calls of any kind, each once or from then on; the seed is printed."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    chosen = [(rng.choice(KINDS), rng.choice(list(FAULTS)), rng.randrange(1, 10)) for _ in range(SAMPLE)]
    await together(sweep.life(*life, sticky=rng.random() < 0.5) for life in chosen)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("fault", "sticky"), EACH, ids=[f"{fault} {'from then on' if on else 'once'}" for fault, on in EACH]
)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_that_fails_or_kills(sweep: Sweep, kind: str, fault: str, sticky: bool) -> None:
    """Call 1, 2, 3… of a kind, until lives end untouched: every step of the commit is hit (A01)."""
    for first in range(1, LAST, AT_ONCE):
        group = range(first, first + AT_ONCE)
        if not any(await together(sweep.life(kind, fault, when, sticky=sticky) for when in group)):
            assert first > 1, "the sweep no longer reaches such a call"
            return
    raise AssertionError(f"{kind} was still met after {LAST} calls")


STEP = 12 << 10  # bytes between two disks of a sweep
ROOMY = 4 << 20


@pytest.mark.parametrize("filled", ["before the start", "at work"])
@pytest.mark.parametrize("step", [pytest.param(16, id="a sample"), pytest.param(1, id="every", marks=pytest.mark.long)])
@pytest.mark.timeout(600)
async def test_a_disk_that_others_filled(sweep: Sweep, filled: str, step: int) -> None:
    """Real ENOSPC on a tmpfs with so many bytes left, from none to enough: no client notices, ever (F03)."""
    for first in range(0, ROOMY // STEP, step * AT_ONCE):
        group = range(first, first + step * AT_ONCE, step)
        if all(await together(sweep.life_on_a_full_disk(number * STEP, filled) for number in group)):
            assert sweep.full_disks, "the sweep no longer reaches the end of the disk"
            return
    raise AssertionError("the image was never kept")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "rename" else pytest.mark.long) for kind in KINDS]
)
@pytest.mark.timeout(600)
async def test_an_upgrade_that_is_cut(sweep: Sweep, kind: str) -> None:
    """SIGKILL at every call of the first start on a store of version 1: the next one starts, and nothing is fetched."""
    for first in range(1, LAST, AT_ONCE):
        group = range(first, first + AT_ONCE)
        if not any(await together(sweep.life_of_an_older_store(kind, when) for when in group)):
            assert first > 1, "the sweep no longer reaches such a call"
            assert sweep.fetched() == 0
            return
    raise AssertionError(f"{kind} was still met after {LAST} calls")


async def test_a_restart_on_a_full_disk(sweep: Sweep) -> None:
    """Others left not a byte: it starts, serves what it has, streams what it lacks, and keeps it once there is room."""
    server = sweep.server()
    with volume(server.home / "disk", "8m") as disk:
        server.cache_dir = disk.root / "cache"
        manifest_path, *layers = sweep.targets()
        async with server:
            for target in (manifest_path, *layers[:-1]):
                assert await sweep.pulled(server.netloc, *target)
        disk.fill(disk.root / "others", 0)
        async with server:
            for target in (manifest_path, *layers):
                assert await sweep.pulled(server.netloc, *target, tries=1)
        outcomes = [line["outcome"] for line in server.log_lines() if line["event"] == "request"]
        assert outcomes[-3:] == ["hit", "hit", "unkept"]
        assert_directory_whole(server.cache_dir)
        (disk.root / "others").unlink()
        await sweep.again(server.cache_dir, "once there is room")


def set_aside(cache_dir: Path) -> list[Path]:
    return list((cache_dir / "quarantine").iterdir())


async def test_a_stored_blob_that_cannot_be_read(sweep: Sweep) -> None:
    """EIO at a thread's second read of stored blobs, and all later ones: a retry is served from a refetch (F05)."""
    server = sweep.server()
    async with server:
        for target in sweep.targets():
            assert await sweep.pulled(server.netloc, *target)
    server.inject("read", "I/O error", 2, sticky=True)
    async with server:
        for target in sweep.targets():  # a refetch that is committed too soon is read from that path, and fails again
            assert await sweep.pulled(server.netloc, *target, tries=TRIES)
    assert server.was_hit
    assert set_aside(server.cache_dir)
    server.heal()
    async with server:
        for target in sweep.targets():
            assert await sweep.pulled(server.netloc, *target)
    assert_directory_whole(server.cache_dir)
