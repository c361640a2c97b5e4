"""Every await of a pull is cancelled once: the client's request, and each task that works for it.

A request is cancelled when its client leaves, a room's own task when the server stops. Whichever await it hits: nobody
hangs, no wrong byte is told for right, nothing stays in a table, no slot and no file stays taken, and the next client
gets everything.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.cancelling import REQUEST, Aim, Fits, cancelled_at, names
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.leaks import Footprint
from tests.support.proxy import UPSTREAM, Proxy, config_text, running
from tests.support.realm import Bearer, Realm
from tests.support.registry import Registry
from tests.support.waiting import until
from tests.support.wire import Gate

REPOSITORY = "team/app"
OTHER = "team/other"
RANGE = slice(1000, 150_001)
NO_REFERRERS = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
STEPS_MAX = 400
SIZE = 300_000


@dataclass
class Ground:
    """One proxy and its upstream; each step of a sweep has an image of its own, numbered."""

    proxy: Proxy
    registry: Registry
    clock: Clock

    def image(self, number: int) -> Image:
        return self.registry.add(REPOSITORY, str(number), manifest(blob(SIZE, seed=number)))

    async def outcome(self, path: str, **headers: str) -> bytes | int | None:
        """What a client gets: the body of a 200 or 206, the status of any other answer, None for a dropped one."""
        try:
            async with asyncio.timeout(10):
                answer = await self.proxy.ask(path, **headers)
        except (ConnectionError, asyncio.IncompleteReadError):
            return None
        return answer.body if answer.status in (200, 206) else answer.status

    async def is_quiet(self) -> None:
        """Nothing runs any more, and nothing is held."""
        async with asyncio.timeout(10):
            await self.proxy.quiet()
        await until(lambda: not any(one.slots.used for one in self.proxy.rooms.upstreams.endpoints(UPSTREAM)))
        assert self.proxy.rooms.downloads.readers == 0


def manifest_of(image: Image, *_: int) -> tuple[str, bytes]:
    return f"{REPOSITORY}/manifests/{image.digest}", image.manifest.data


def tag_of(image: Image, number: int) -> tuple[str, bytes]:
    return f"{REPOSITORY}/manifests/{number}", image.manifest.data


def layer_of(image: Image, *_: int) -> tuple[str, bytes]:
    return f"{REPOSITORY}/blobs/{image.layers[0].digest}", image.layers[0].data


def range_of(image: Image, *_: int) -> tuple[str, bytes]:
    path, body = layer_of(image)
    return path, body[RANGE]


def elsewhere(image: Image, *_: int) -> tuple[str, bytes]:
    path, body = layer_of(image)
    return path.replace(REPOSITORY, OTHER), body


def tags_of(_image: Image, number: int) -> tuple[str, bytes]:
    tags = sorted(str(known) for known in range(1, number + 1))
    return f"{REPOSITORY}/tags/list", json.dumps(
        {"name": f"{UPSTREAM}/{REPOSITORY}", "tags": tags}, separators=(",", ":")
    ).encode()


def referrers_of(image: Image, *_: int) -> tuple[str, bytes]:
    return f"{REPOSITORY}/referrers/{image.digest}", NO_REFERRERS


@dataclass(frozen=True)
class Sweep:
    """`before` prepares a step outside of the watch; what is asked for is one path, with its true body."""

    victim: Fits
    ask: Callable[[Image, int], tuple[str, bytes]]
    before: Callable[[Ground, Image, int], Awaitable[None]] | None = None
    least: int = 1  # awaits that the victim has at least: fewer mean that the sweep missed it
    headers: dict[str, str] = field(default_factory=dict)


async def pulled(ground: Ground, image: Image, number: int) -> None:
    """The image is here."""
    for path, body in (tag_of(image, number), layer_of(image)):
        assert await ground.outcome(path) == body
    await ground.is_quiet()


async def expired(ground: Ground, image: Image, number: int) -> None:
    """The tag is here, and due for a check."""
    await pulled(ground, image, number)
    ground.clock.advance(3600)


async def moved(ground: Ground, image: Image, number: int) -> None:
    """The tag was here, and now names `image` upstream."""
    path = f"{REPOSITORY}/manifests/{number}"
    ground.registry.add(REPOSITORY, str(number), manifest(blob(10, seed=number)))
    assert await ground.outcome(path) != image.manifest.data
    ground.registry.add(REPOSITORY, str(number), image)
    ground.clock.advance(3600)


async def held_elsewhere(ground: Ground, image: Image, number: int) -> None:
    """The blob is here, by another repository; this one holds it upstream."""
    await pulled(ground, image, number)
    ground.registry.add_blob(OTHER, image.layers[0])


async def without_token(ground: Ground, image: Image, number: int) -> None:
    """The upstream refuses the tokens that it gave."""
    assert isinstance(ground.registry.authority, Bearer)
    ground.registry.authority.realm.expire_all()


async def later(ground: Ground, image: Image, number: int) -> None:
    """What is remembered briefly is forgotten."""
    ground.clock.advance(3600)


SWEEPS = {
    "manifest by tag, cold, its client": Sweep(REQUEST, tag_of, least=2),
    "manifest by tag, cold, the check": Sweep(names("check tag"), tag_of, least=2),
    "manifest by tag, cold, the fetch": Sweep(names("fetch manifest"), tag_of, least=4),
    "manifest by digest, cold, its client": Sweep(REQUEST, manifest_of, least=2),
    "tag due for a check, its client": Sweep(REQUEST, tag_of, expired),
    "tag due for a check, the check": Sweep(names("check tag"), tag_of, expired),
    "tag that moved, the check": Sweep(names("check tag"), tag_of, moved, least=3),
    "blob, cold, its client": Sweep(REQUEST, layer_of, least=5),
    "blob, cold, the transfer": Sweep(names("transfer"), layer_of, least=6),
    "blob, cold, the writer": Sweep(names("append"), layer_of),
    "blob, here, its client": Sweep(REQUEST, layer_of, pulled),
    "range, cold, its client": Sweep(REQUEST, range_of, least=3, headers={"Range": "bytes=1000-150000"}),
    "range, cold, the transfer": Sweep(names("transfer"), range_of, least=6, headers={"Range": "bytes=1000-150000"}),
    "blob known elsewhere, its client": Sweep(REQUEST, elsewhere, held_elsewhere, least=3),
    "blob known elsewhere, the proof": Sweep(names("prove blob"), elsewhere, held_elsewhere, least=2),
    "token refused, its client": Sweep(REQUEST, tag_of, without_token, least=2),
    "token refused, the fetch": Sweep(names("fetch manifest"), tag_of, without_token, least=4),
    "token refused, the realm": Sweep(names("token"), tag_of, without_token),
    "token refused, the transfer": Sweep(names("transfer"), layer_of, without_token, least=8),
    "tags, their client": Sweep(REQUEST, tags_of, later),
    "tags, the list": Sweep(names("list"), tags_of, later),
    "referrers, the list": Sweep(names("list"), referrers_of, later),
}


@pytest.mark.parametrize("sweep", SWEEPS.values(), ids=SWEEPS.keys())
async def test_each_await_is_cancelled_once(cache_dir: Path, registry: Registry, clock: Clock, sweep: Sweep) -> None:
    """The one who is cancelled loses its answer at most; all who come after are served whole."""
    async with AsyncExitStack() as stack:
        if sweep.before is without_token:
            registry.authority = Bearer(await stack.enter_async_context(Realm(clock=clock)))
        proxy = await stack.enter_async_context(
            running(config_text(cache_dir, registry, "hydrate: {image: none}\n"), clock)
        )
        ground = Ground(proxy, registry, clock)
        await pulled(ground, ground.image(0), 0)
        registry.untag(REPOSITORY, "0")
        files = Footprint.here().files
        for number in range(1, STEPS_MAX):
            image = ground.image(number)
            if sweep.before is not None:
                await sweep.before(ground, image, number)
            path, body = sweep.ask(image, number)
            with cancelled_at(number, sweep.victim) as aim:
                first = await ground.outcome(path, **sweep.headers)
                await ground.is_quiet()
            assert first in (body, None, 503, 504), f"await {number}: {first!r:.80}"
            assert await ground.outcome(path, **sweep.headers) == body, f"await {number}"
            await ground.is_quiet()
            if not aim.struck:
                assert first == body
                break
        assert sweep.least < number < STEPS_MAX - 1, f"{number - 1} awaits"
        assert Footprint.here().files <= files + 8  # kept connections


@pytest.mark.parametrize("victim", ["the first", "the second", "the transfer"])
async def test_each_await_of_readers_that_joined_is_cancelled_once(
    proxy: Proxy, registry: Registry, clock: Clock, victim: str
) -> None:
    """Two read one transfer. A client that leaves costs the other nothing, and the upstream sends the blob once; when
    the transfer itself is ended both are dropped, and the next client goes on from what was kept.
    """
    ground = Ground(proxy, registry, clock)
    for number in range(1, STEPS_MAX):
        wanted = registry.add_blob(REPOSITORY, blob(SIZE, seed=number))
        path = f"{REPOSITORY}/blobs/{wanted.digest}"
        gate = registry.hold(wanted.digest, after_bytes=SIZE // 2, times=1)
        fits = names("transfer") if victim == "the transfer" else REQUEST
        with cancelled_at(number, fits, skip=victim == "the second") as aim:
            clients = [asyncio.ensure_future(ground.outcome(path))]
            await reached_or(gate, clients)
            clients.append(asyncio.ensure_future(ground.outcome(path)))
            await joined(proxy, aim, clients)
            gate.open()
            first, second = await asyncio.gather(*clients)
            await ground.is_quiet()
        safe = {"the first": second, "the second": first, "the transfer": wanted.data}[victim]
        assert safe == wanted.data, f"await {number}"
        assert {first, second} <= {wanted.data, None, 503}
        sent = registry.bytes_for(wanted.digest)
        assert sent == SIZE or victim == "the transfer", f"await {number}: {sent} bytes"
        assert await ground.outcome(path) == wanted.data
        await ground.is_quiet()
        if not aim.struck:
            assert first == second == wanted.data
            break
    assert (1 if victim == "the second" else 4) < number < STEPS_MAX - 1, f"{number - 1} awaits"


async def reached_or(gate: Gate, clients: Sequence[asyncio.Future[bytes | int | None]]) -> None:
    """Wait until the upstream's body stands at the gate, or a client has its answer or lost it."""
    await until(lambda: gate.waiting or any(one.done() for one in clients))


async def joined(proxy: Proxy, aim: Aim, clients: Sequence[asyncio.Future[bytes | int | None]]) -> None:
    """Wait until both clients read, unless one was cancelled."""
    await until(lambda: proxy.rooms.downloads.readers == 2 or aim.struck or any(one.done() for one in clients))


@pytest.mark.long
@pytest.mark.timeout(600)  # a minute on a quiet machine
async def test_each_await_of_a_hydration_is_cancelled_once(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """The job stays in the queue until its image is whole, whichever of its awaits ends."""
    async with running(config_text(cache_dir, registry), clock) as proxy:
        ground = Ground(proxy, registry, clock)
        for number in range(1, STEPS_MAX):
            layers = [blob(100_000 + layer, seed=number) for layer in range(2)]
            image = registry.add(REPOSITORY, str(number), manifest(*layers))
            with cancelled_at(number, names("hydrate ")) as aim:
                assert await ground.outcome(f"{REPOSITORY}/manifests/{number}") == image.manifest.data
                assert await ground.outcome(f"{REPOSITORY}/blobs/{layers[0].digest}") == layers[0].data
                await proxy.rooms.hydrate.finished()
            assert [proxy.stored(part.digest) for part in image.blobs] == [part.data for part in image.blobs]
            await ground.is_quiet()
            if not aim.struck:
                break
        assert 3 < number < STEPS_MAX - 1, f"{number - 1} awaits"
