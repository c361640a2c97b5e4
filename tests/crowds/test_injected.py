"""The N-th write, sync, rename, unlink, mkdir, open or truncate of a real process fails or kills it (F01, F03, F06).

After every run the directory is whole (I2), the next start needs no repair (I10), and every pull that completed, in the
broken life and after it, had the right bytes (I1). A sample in the gate; every call of every kind in the long form.
"""

import asyncio
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.cistern import assert_image_whole
from tests.support.images import Image, blob, manifest
from tests.support.injected import CALLS, FAULTS, InjectedCistern
from tests.support.pulling import Pulling
from tests.support.registry import Registry
from tests.support.whole import assert_directory_whole, assert_swept

HUB, APP = "hub.test", "team/app"
SAMPLE = 4  # lives in the gate
LAST = 400  # no life makes so many calls of one kind in one thread
KINDS = [kind for kind in CALLS if kind != "read"]
EACH = [(fault, sticky) for fault in FAULTS for sticky in (False, True) if not (sticky and fault == "kill")]


def config(registry: Registry) -> dict[str, Any]:
    hub = {"endpoints": [{"url": registry.url}], "plain_http": True, "proxy": "none"}
    return {"upstreams": {HUB: hub}, "hydrate": {"image": "none"}, "cache": {"max_size": "1GiB", "keep_free": "0%"}}


class Sweep:
    """One image, pulled through one life after the other, each on a directory of its own."""

    def __init__(self, base: Path, registry: Registry) -> None:
        self._base = base
        self._registry = registry
        self.image: Image = registry.add(APP, "1", manifest(blob(300_000), blob(20_000, seed=1)))
        self._lives = 0

    async def life(self, kind: str, fault: str, when: int, *, sticky: bool) -> bool:
        """Live once under a fault, then once more untouched; whether the fault was met."""
        self._lives += 1
        content = (self.image.manifest, *self.image.blobs)
        server = InjectedCistern(self._base / str(self._lives), config(self._registry), content)
        server.inject(kind, fault, when, sticky=sticky)
        hit = await self._broken(server, fault)
        if server.cache_dir.exists() and (server.cache_dir / "parts").exists():
            assert_directory_whole(server.cache_dir)
        server.heal()
        async with server:
            for target in self.targets():
                assert await self.pulled(server, *target), f"{target[0]} after {kind} {fault} {when}"
        assert_directory_whole(server.cache_dir)
        assert_swept(server.cache_dir)
        assert_image_whole(server.cache_dir, self.image)
        return hit

    async def _broken(self, server: InjectedCistern, fault: str) -> bool:
        try:
            await server.start()
        except AssertionError:  # it died, or refused, before it was ready
            return True
        for target in self.targets():
            await self.pulled(server, *target)
        if fault == "kill" and server.has_ended:
            assert await server.ended() == -signal.SIGKILL
            return True
        code = await server.terminate()
        assert code in (0, -signal.SIGKILL)
        return server.was_hit or code != 0

    def targets(self) -> list[tuple[str, bytes]]:
        found = [("manifests/1", self.image.manifest.data)]
        return found + [(f"blobs/{part.digest}", part.data) for part in self.image.blobs]

    async def pulled(self, server: InjectedCistern, path: str, wanted: bytes) -> bool:
        """Whether a pull completed within three tries; what completes is right (I1)."""
        for _ in range(3):
            try:
                pulling = await Pulling.start(server.netloc, f"/v2/{HUB}/{APP}/{path}")
                body = await pulling.rest()
            except (OSError, asyncio.IncompleteReadError):
                continue
            if pulling.status == 200:
                assert body == wanted, f"a wrong body of {path} completed"
                return True
        return False


@pytest.fixture
def sweep(short_tmp: Path, registry: Registry) -> Sweep:
    return Sweep(short_tmp, registry)


async def test_a_sample_of_calls_that_fail_or_kill(sweep: Sweep) -> None:
    """A few calls of any kind, each once or from then on; the seed is printed."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(SAMPLE):
        kind, fault = rng.choice(KINDS), rng.choice(list(FAULTS))
        await sweep.life(kind, fault, rng.randrange(1, 10), sticky=rng.random() < 0.5)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("fault", "sticky"), EACH, ids=[f"{fault} {'from then on' if on else 'once'}" for fault, on in EACH]
)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_call_that_fails_or_kills(sweep: Sweep, kind: str, fault: str, sticky: bool) -> None:
    """Call 1, 2, 3… of a kind, until a life ends untouched: every step of the commit is hit (A01)."""
    for when in range(1, LAST):
        if not await sweep.life(kind, fault, when, sticky=sticky):
            assert when > 1, "the sweep no longer reaches such a call"
            return
    raise AssertionError(f"{kind} was still met after {LAST} calls")


def set_aside(cache_dir: Path) -> list[Path]:
    return list((cache_dir / "quarantine").iterdir())


async def test_a_stored_blob_that_cannot_be_read(sweep: Sweep, short_tmp: Path, registry: Registry) -> None:
    """EIO at a thread's second read of stored blobs, and all later ones: the retry is served from a refetch (F05)."""
    content = (sweep.image.manifest, *sweep.image.blobs)
    server = InjectedCistern(short_tmp / "home", config(registry), content)
    async with server:
        for target in sweep.targets():
            assert await sweep.pulled(server, *target)
    server.inject("read", "I/O error", 2, sticky=True)
    async with server:
        for target in sweep.targets():
            assert await sweep.pulled(server, *target)
    assert server.was_hit
    assert set_aside(server.cache_dir)
    server.heal()
    async with server:
        for target in sweep.targets():
            assert await sweep.pulled(server, *target)
    assert_directory_whole(server.cache_dir)
