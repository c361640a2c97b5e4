"""A hundred readers while their cache evicts, hydrates and is emptied by hand: no wrong byte, no short body, cap held.

The cache holds about half of what is pulled, over two base layers that images share. Hypothesis makes the schedules and
shrinks one that fails; the directory's real blocks are counted all the while.
"""

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.errors import ManifestUnknown
from proxy.events import Evicted
from proxy.oci import Digest
from tests.support.blocks import blocks_under
from tests.support.clock import Clock
from tests.support.images import Blob, Image, blob, manifest
from tests.support.kept import Kept
from tests.support.proxy import UPSTREAM, config_text, running
from tests.support.registry import Registry
from tests.support.waiting import turns

KIB, MIB = 1 << 10, 1 << 20
CAP = 14 * MIB
REPOSITORY = "team/app"
IMAGES = 8
CROWD = 100
LONG_S = 400

Step = tuple[str, int, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pull"), st.integers(0, IMAGES - 1), st.integers(1, 12)),
        st.tuples(st.just("range"), st.integers(0, IMAGES - 1), st.integers(0, 2 * MIB - 1)),
        st.tuples(st.just("wait"), st.just(0), st.sampled_from([1, 40, LONG_S])),
        st.tuples(st.just("evict"), st.integers(0, IMAGES - 1), st.just(0)),
        st.tuples(st.just("settle"), st.just(0), st.integers(0, 30)),
    ),
    min_size=6,
    max_size=16,
)
BUSY: list[Step] = [
    step
    for number in range(IMAGES)
    for step in (
        ("pull", number, 10),
        ("settle", 0, 30),
        ("wait", 0, 40 if number % 2 else LONG_S),
        ("pull", number // 2, 3),
        ("range", number // 2, MIB),
    )
]


def images(registry: Registry) -> list[Image]:
    """Each has a layer of its own and one of two bases; together they are about twice the cache."""
    bases = [blob(MIB + 5, seed=100), blob(700 * KIB, seed=101)]
    return [
        registry.add(REPOSITORY, str(n), manifest(bases[n % 2], blob((2 + n % 3) * MIB + n, seed=n)))
        for n in range(IMAGES)
    ]


@dataclass
class Run:
    """One schedule over one cache. `most` is the most that the directory ever took."""

    rooms: Kept
    registry: Registry
    clock: Clock
    cache: Path
    wanted: list[Image]
    readers: int = 0
    most: int = 0
    pulls: list[asyncio.Task[None]] = field(default_factory=list)

    async def client(self, number: int) -> None:
        """A client that pulls a whole image, as containerd does: the manifest, then all blobs at once."""
        image = self.wanted[number]
        answer = await self.rooms.proxy.ask(f"{REPOSITORY}/manifests/{number}")
        assert (answer.status, answer.body) == (200, image.manifest.data)
        await asyncio.gather(*(self._blob(found) for found in image.blobs))

    async def _blob(self, wanted: Blob) -> None:
        answer = await self.rooms.proxy.pull(wanted)
        assert answer.status == 200
        assert answer.body == wanted.data, f"{len(answer.body)} bytes of {wanted.size}, or wrong ones"

    async def part(self, number: int, start: int) -> None:
        """A client that wants the end of a layer."""
        wanted = self.wanted[number].layers[1]
        answer = await self.rooms.proxy.pull(wanted, Range=f"bytes={start}-")
        assert answer.status == 206, f"{answer.status}: {answer.body[:200]!r}"
        assert answer.body == wanted.data[start:], f"{len(answer.body)} bytes of {wanted.size - start}, or wrong ones"

    async def take(self, step: Step) -> None:
        kind, number, count = step
        if kind == "pull":
            for _ in range(min(count, CROWD - self.readers)):
                self.readers += 1
                self.pulls.append(asyncio.get_running_loop().create_task(self.client(number)))
        elif kind == "range":
            self.pulls.append(asyncio.get_running_loop().create_task(self.part(number, count)))
        elif kind == "wait":
            if count == LONG_S:  # until nobody pulls: then most of what is here may go
                await asyncio.gather(*self.pulls)
                await self.rooms.proxy.quiet()
            self.clock.advance(count)
        elif kind == "evict":
            try:
                await self.rooms.evict.named(f"{UPSTREAM}/{REPOSITORY}:{number}")
            except ManifestUnknown:
                return
        else:
            await turns(count)

    async def watch(self) -> None:
        while True:
            self.most = max(self.most, await asyncio.to_thread(blocks_under, self.cache))

    async def whole(self, steps: list[Step]) -> None:
        watching = asyncio.get_running_loop().create_task(self.watch())
        try:
            async with asyncio.timeout(120):
                for step in steps:
                    await self.take(step)
                await asyncio.gather(*self.pulls)
                await self.rooms.proxy.quiet()
        finally:
            for task in (watching, *self.pulls):
                task.cancel()
            await asyncio.gather(watching, *self.pulls, return_exceptions=True)


async def play(steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory(prefix="cst") as scratch:
        cache, clock = Path(scratch) / "cache", Clock()
        async with Registry() as registry:
            wanted = images(registry)
            text = config_text(cache, registry).replace("cache: {", f"cache: {{max_size: {CAP}B, keep_free: 0B, ")
            async with running(text, clock) as proxy:
                proxy.hear(Evicted)
                run = Run(Kept.over(proxy), registry, clock, cache, wanted)
                await run.whole(steps)
                assert run.most <= CAP, f"the directory took {run.most} bytes of {CAP}"
                await proxy.rooms.capacity.look()
                ledger = proxy.rooms.capacity.ledger
                async for stored in proxy.rooms.disk.blobs.list():
                    assert Digest.of(proxy.rooms.disk.blobs.path_of(stored.digest).read_bytes()) == stored.digest
                assert steps is not BUSY or proxy.heard, "nothing was evicted: the schedule shows nothing"
                assert ledger.taken >= blocks_under(cache) - 64 * KIB


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@example(steps=BUSY)
@given(steps=STEPS)
def test_readers_evictions_and_hydrations_at_once(steps: list[Step]) -> None:
    """Every client gets just what it asked for, what is stored is true, the cap holds at every sample (F23, F24)."""
    asyncio.run(play(steps))
