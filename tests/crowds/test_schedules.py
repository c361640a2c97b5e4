"""Random schedules: readers of three repositories come, read and leave while the upstream cuts, lies and stalls.

Whatever the order, the invariants hold: every completed body is exact, no repository shows what it lacks, the store
holds the truth or nothing, an honest upstream sends one body, and nothing is left behind. A seed replays its schedule.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob, blob
from tests.support.leaks import Footprint
from tests.support.proxy import Proxy, config_text, running
from tests.support.pulling import Pulling
from tests.support.registry import Registry
from tests.support.waiting import settled, until
from tests.support.wire import Answer, Fault

HOLD = 64 << 10
SIZES = (0, 1, 1000, HOLD, HOLD + 1, 300_000, 1_500_000)
HOLDERS = ("team/one", "team/two")
LACKING = "team/none"
SHORT_RUN = 60
LONG_RUN = 500
STOPS = 8


@dataclass
class Schedule:
    """One seed's run: a blob of its own, an upstream that misbehaves for a while, and readers."""

    seed: int
    proxy: Proxy
    registry: Registry
    clock: Clock
    wanted: Blob
    rng: random.Random
    faults: list[str] = field(default_factory=list)
    lied: bool = False

    def plan_faults(self) -> None:
        """Up to three bad answers for each repository that holds the blob; after them it is honest."""
        for repository in HOLDERS:
            for _ in range(self.rng.choice((0, 0, 1, 1, 2, 3))):
                self.registry.script(f"/v2/{repository}/blobs/{self.wanted.digest}", self._fault(), times=1)

    def _fault(self) -> Fault:
        at = self.rng.randrange(1, self.wanted.size + 1) if self.wanted.size else 0
        choices: dict[str, Callable[[], Fault]] = {
            "cut": lambda: script.cut(at),
            "reset": lambda: script.cut(at, reset=True),
            "spoil": lambda: lambda answer: script.spoil(min(at, len(answer.body)) - 1)(answer),
            "spoil and cut": lambda: lambda answer: script.cut(at)(script.spoil(0)(answer)),
            "long": lambda: lambda answer: script.declare(len(answer.body) + 1000)(answer),
            "short": lambda: lambda answer: script.declare(max(1, len(answer.body) // 2))(answer),
            "chunked": lambda: script.chunked,
            "chunked and cut": lambda: lambda answer: script.cut(at)(script.chunked(answer)),
            "ignore range": lambda: script.ignore_range,
            "shift range": lambda: script.shift_range(self.rng.randrange(-999, 999)),
            "html": script.html,
            "503": lambda: script.error(503),
            "403": lambda: script.error(403, "DENIED"),
            "404": lambda: script.error(404, "BLOB_UNKNOWN"),
            "429": lambda: script.throttle("0"),
            "stall": lambda: self._stall(at),
        }
        name = self.rng.choice(sorted(choices))
        self.lied = self.lied or "spoil" in name
        self.faults.append(f"{name}@{at}")
        fault = choices[name]()
        return lambda answer: fault(answer) if isinstance(answer, Answer) and answer.status in (200, 206) else answer

    def _stall(self, at: int) -> Fault:
        """A body that stops at `at`, for longer than the proxy waits."""
        gate = self.registry.hold("nothing")
        return script.gate(gate, at)

    async def reader(self) -> None:
        """One client: joins at a moment of its own, at an offset of its own, and may leave early."""
        rng, size = self.rng, self.wanted.size
        repository = rng.choice((*HOLDERS, *HOLDERS, LACKING))
        start, stop, headers = 0, size, {}
        if size and rng.random() < 0.5:
            start = rng.randrange(size)
            stop = rng.choice((size, rng.randrange(start, size) + 1))
            headers = {"Range": f"bytes={start}-{'' if stop == size else stop - 1}"}
        moments, leaves_after = rng.randrange(40), rng.choice((None, None, None, 0, rng.randrange(size + 1)))
        for _ in range(moments):
            await settled()
        pulling = await self.proxy.start_pull(self.wanted, repository, **headers)
        await self._read(pulling, repository, self.wanted.data[start:stop], leaves_after, at_the_end=stop > size - HOLD)

    async def _read(
        self, pulling: Pulling, repository: str, data: bytes, leaves_after: int | None, *, at_the_end: bool
    ) -> None:
        try:
            if leaves_after is not None:
                await pulling.head()
                await pulling.read(min(leaves_after, pulling.length or 0))
                await pulling.leave()
                return
            body = await pulling.rest()
        except (ConnectionError, asyncio.IncompleteReadError):
            return  # dropped: it knows that it has not got it all
        if pulling.status in (200, 206):
            assert repository != LACKING, "a repository showed a blob that it lacks"
            # A range that does not touch the end may leave before the digest is known: an upstream's lie goes with it.
            if at_the_end or not self.lied:
                assert body == data, f"a wrong body of {len(body)} bytes completed"
        else:
            assert pulling.status in (403, 404, 416, 429, 502, 503, 504), f"status {pulling.status}"
            assert repository != LACKING or pulling.status != 403

    async def run(self) -> None:
        self.registry.add_blob(HOLDERS[0], self.wanted)
        self.registry.add_blob(HOLDERS[1], self.wanted)
        self.registry.forget()
        self.plan_faults()
        readers = [self.reader() for _ in range(self.rng.randrange(1, 7))]
        async with asyncio.timeout(20):
            await asyncio.gather(*readers)
            await self.proxy.quiet()
        stored = self.proxy.stored(self.wanted.digest)
        assert stored in (None, self.wanted.data), "the store holds what is not the blob"
        sent = [self.registry.bytes_for(f"/v2/{holder}/blobs/{self.wanted.digest}") for holder in HOLDERS]
        assert self.faults or sum(sent) in (0, self.wanted.size), f"an honest upstream sent {sent}"
        await self._recover()

    async def _recover(self) -> None:
        """With the faults gone, whoever holds the blob serves it. A kept part of a liar's costs one pull first."""
        self.registry.heal()
        self.clock.advance(3600)  # past what was remembered as missing
        if self.lied:
            async with asyncio.timeout(20):
                with suppress(ConnectionError):
                    await self.proxy.pull(self.wanted, HOLDERS[0])
                await self.proxy.quiet()
        for repository in HOLDERS:
            async with asyncio.timeout(20):
                answer = await self.proxy.pull(self.wanted, repository)
            assert answer.body == self.wanted.data, f"{repository} does not recover: {answer.status}"
        assert (await self.proxy.pull(self.wanted, LACKING)).status == 404
        await self.proxy.quiet()
        assert self.proxy.stored(self.wanted.digest) == self.wanted.data


def own_tasks() -> Counter[str]:
    """The names of the tasks that run; those of kept connections, which are the HTTP server's, left out."""
    running = (task for task in asyncio.all_tasks() if "RequestHandler" not in repr(task.get_coro()))
    return Counter(task.get_name() for task in running)


async def own_tasks_are(wanted: Counter[str]) -> None:
    """Wait until no task runs but these: a look at the disk or a probe may be about to end."""
    try:
        await until(lambda: not own_tasks() - wanted)
    except TimeoutError:
        raise AssertionError(f"tasks are left: {own_tasks() - wanted}") from None


async def replay(cache_dir: Path, registry: Registry, clock: Clock, seeds: range) -> None:
    """Run the schedules of `seeds`, one after the other, through one proxy; nothing of them may be left in it."""
    timeouts = {"connect": "1s", "headers": "1s", "stall": "50ms"}
    breaker = {"failures": 1_000_000}
    text = config_text(cache_dir, registry, "hydrate: {image: none}\n", timeouts=timeouts, breaker=breaker)
    registry.add_blob(LACKING, blob(10, seed=-1))
    async with running(text, clock, rng=lambda: 0.0) as proxy:
        before, running_before = Footprint.here(), own_tasks()
        for seed in seeds:
            rng = random.Random(seed)
            schedule = Schedule(seed, proxy, registry, clock, blob(rng.choice(SIZES), seed=seed), rng)
            try:
                await schedule.run()
            except BaseException as error:
                error.add_note(f"seed {seed}: {schedule.wanted.size} bytes, faults {schedule.faults}")
                raise
        assert not list((cache_dir / "parts").iterdir())
        await own_tasks_are(running_before)
        after = Footprint.here()
        assert after.files <= before.files + 16, "files are left open"  # kept connections among them


async def test_invariants_hold_on_every_schedule(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """Sixty schedules, the same in every run."""
    await replay(cache_dir, registry, clock, range(SHORT_RUN))


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("part", range(4))
async def test_invariants_hold_on_many_schedules(cache_dir: Path, registry: Registry, clock: Clock, part: int) -> None:
    """Thousands of schedules, new ones where CISTERN_SEED says so."""
    first = int(os.environ.get("CISTERN_SEED", "1000")) + part * LONG_RUN
    await replay(cache_dir, registry, clock, range(first, first + LONG_RUN))


async def test_a_stop_at_any_moment_leaves_nothing_behind(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """A server that stops while clients read drops them all, leaves no task and no file open, and the next one goes on
    from what was kept: the blob is served whole, and the store is true.
    """
    registry.add_blob(LACKING, blob(10, seed=-1))
    text = config_text(cache_dir, registry, "hydrate: {image: none}\n")
    async with running(text, clock) as proxy:
        await proxy.ask("/v2/")
    files, tasks = Footprint.here().files, len(asyncio.all_tasks())
    for seed in range(STOPS):
        rng = random.Random(seed)
        wanted = blob(rng.choice((1000, HOLD + 1, 300_000, 4_000_000)), seed=seed)
        async with running(text, clock) as proxy:
            schedule = Schedule(seed, proxy, registry, clock, wanted, rng)
            for holder in HOLDERS:
                registry.add_blob(holder, wanted)
            readers = [asyncio.ensure_future(schedule.reader()) for _ in range(4)]
            for _ in range(rng.randrange(60)):
                await settled()
        async with asyncio.timeout(10):
            ended = await asyncio.gather(*readers, return_exceptions=True)
        assert [error for error in ended if error is not None and not isinstance(error, OSError)] == []
        async with running(text, clock) as proxy:
            assert (await proxy.pull(wanted, HOLDERS[0])).body == wanted.data
            await proxy.quiet()
            assert proxy.stored(wanted.digest) == wanted.data
    await settled()
    assert len(asyncio.all_tasks()) <= tasks + 2
    assert Footprint.here().files <= files + 2
