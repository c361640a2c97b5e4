"""The soak: mixed clients pull for as long as one likes, while everything that can go wrong does, and it is judged.

Judged: no wrong byte; no failed pull that trouble does not excuse; probes good while Cistern runs; and at the end all
pulls whole, the store true, nothing running, memory, descriptors and disk flat. `seed` replays every decision.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from proxy.heap import LOOK_EVERY_S, SLACK
from tests.soak.clients import CLIENTS, Client, Errand, Failed, plain
from tests.soak.content import HOST, Content
from tests.soak.report import Report
from tests.soak.trouble import Trouble
from tests.soak.weather import AWAY, GRACE_OF, GRACE_S, Weather
from tests.support.blocks import blocks_under
from tests.support.cistern import CisternProcess, assert_store_true
from tests.support.faults import FaultProxy
from tests.support.leaks import Footprint
from tests.support.registry import Registry

MIB: Final = 1 << 20
AT_ONCE: Final = 6  # clients
PAUSE_S: Final = (0.0, 0.3)  # between two pulls of one client
LAST_LIFE: Final = 0.35  # of the time: no restart any more, so that what grows is seen to grow
WARM: Final = 0.3  # of the last life, until memory is looked at first
# From its lowest while all goes on to where it rests: what the allocator may keep (`proxy.heap.SLACK`), and bounded
# maps that fill, of requests, routes, links and seals of what is new. In an hour that is some 5000 digests.
MEMORY_GROWTH: Final = SLACK + 8 * MIB
FILES_GROWTH: Final = 32  # connections that are kept
SETTLE_S: Final = 30.0

CONFIG: Final[dict[str, Any]] = {
    "registry": {"drain": "5s"},
    "tags": {"fresh_for": "1s", "check_within": "500ms", "missing_for": "1s", "on_denied": "serve_stale"},
}
UPSTREAM: Final[dict[str, Any]] = {
    "plain_http": True,
    "proxy": "none",
    "breaker": {"reset_after": "500ms"},
    "timeouts": {"connect": "3s", "headers": "4s", "stall": "3s"},  # a busy machine is slow, too
}


class Soak:
    """One soak over one Cistern process."""

    def __init__(
        self, trouble: Trouble, scratch: Path, say: Callable[[str], None], max_size: int | None = None
    ) -> None:
        self.trouble = trouble
        self.content = trouble.content
        self.weather = trouble.weather
        self.cistern = trouble.cistern
        self.scratch = scratch
        self.report = Report(trouble.seed)
        self._say = say
        self._max_size = max_size

    async def run(self, seconds: float) -> Report:
        """Soak for so long, settle, and judge."""
        watching = asyncio.ensure_future(self._watch())
        try:
            await self._trouble_for(seconds)
            await self._settle()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        return self.report

    async def _trouble_for(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        clients = [self._client(number) for number in range(AT_ONCE)]
        steady = [
            *clients,
            self.trouble.upstream(),
            self.trouble.moves(),
            self.trouble.reloads(),
            self._probe(),
            self._tell(),
            *([] if self._max_size is None else [self._weigh(self._max_size)]),
        ]
        running = [asyncio.ensure_future(one) for one in steady]
        lives = asyncio.ensure_future(self.trouble.lives())
        try:
            await self._until(end - LAST_LIFE * seconds, [*running, lives])
            lives.cancel()
            await asyncio.gather(lives, return_exceptions=True)
            await self._until(end - LAST_LIFE * (1 - WARM) * seconds, running)
            await self._look()
            await self._until(end, running)
        finally:
            for one in (*running, lives):
                one.cancel()
            await asyncio.gather(*running, lives, return_exceptions=True)

    async def _until(self, moment: float, running: "Sequence[asyncio.Future[None]]") -> None:
        """Wait until then; an actor that ends before has failed, and its error is raised."""
        left = moment - asyncio.get_running_loop().time()
        done, _ = await asyncio.wait(running, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            one.result()

    # Clients

    async def _client(self, number: int) -> None:
        rng = self.trouble.chance(f"client {number}")
        kinds, weights = zip(*CLIENTS, strict=True)
        while True:
            [kind] = rng.choices(kinds, weights)
            repository = rng.choice(sorted(self.content.images))
            if not self.weather.is_away:  # else a client would go elsewhere
                await self._pull(kind, repository, rng)
            await asyncio.sleep(rng.uniform(*PAUSE_S))

    async def _pull(self, kind: Client, repository: str, rng: random.Random) -> bool:
        """One pull, judged; whether it got everything."""
        errand = Errand(self.content, self.cistern.netloc, repository, random.Random(rng.getrandbits(64)), self.scratch)
        loop = asyncio.get_running_loop()
        started = loop.time()
        self.report.pulls[kind.__name__] += 1
        try:
            await kind(errand)
        except Failed as failed:
            excuse = self.weather.excuses(started, loop.time(), held=failed.held)
            if excuse is None and not failed.held:
                excuse = self.content.was_tainted(failed.digest)
            if excuse is None:
                what = "held" if failed.held else "cold"
                told = await asyncio.to_thread(self._told_of, failed)
                self.report.fault(
                    f"{kind.__name__} of {what} {repository}, {loop.time() - started:.1f} s: {failed}; the log: {told}"
                )
            self.report.excused[excuse or "NOTHING"] += 1
        except AssertionError as wrong:
            self.report.fault(f"{kind.__name__} of {repository}: {wrong}")
        else:
            if (
                errand.image is not None
                and kind is plain
                and errand.hits == errand.answers
                and self._max_size is None  # else it may be gone again at any moment
            ):
                self.content.hold(repository, errand.image)
            return True
        return False

    def _told_of(self, failed: Failed) -> list[dict[str, Any]]:
        """Cistern's last words about what failed."""
        lines = [line for line in self.cistern.log_lines() if str(failed.digest) in str(line)]
        return [line for line in lines if line.get("level") != "info" or line.get("error")][-4:]

    async def _probe(self) -> None:
        """A load balancer: the rule's probe is good whatever the upstream does, while Cistern runs."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.2)
            started, status = loop.time(), "no answer"
            with suppress(aiohttp.ClientError, TimeoutError):
                status = str(await self._status(f"/-/rules/{HOST}"))
            self.report.probes += 1
            away = any(
                period.kind in AWAY and period.touches(started, loop.time(), 1.0) for period in self.weather.periods
            )
            if status != "200" and not away:
                self.report.fault(f"the rule's probe: {status} after {loop.time() - started:.1f} s")

    async def _weigh(self, most: int) -> None:
        """The cap is hard: what the cache directory takes on disk never exceeds it."""
        while True:
            await asyncio.sleep(0.5)
            taken = await asyncio.to_thread(blocks_under, self.cistern.cache_dir)
            self.report.most_disk_bytes = max(self.report.most_disk_bytes, taken)
            if taken > most:
                self.report.fault(f"{taken} bytes on disk, {most} are allowed")

    async def _status(self, path: str) -> int:
        timeout = aiohttp.ClientTimeout(total=10)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self.cistern.registry_url + path) as got,
        ):
            return got.status

    async def _watch(self) -> None:
        """How much memory it takes, from the first footprint on."""
        while True:
            await asyncio.sleep(1.0)
            if self.report.footprints and self.cistern.pid is not None:
                self.report.resident.append((await asyncio.to_thread(Footprint.of, self.cistern.pid)).resident_bytes)

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(30.0)
            pulls, excused = sum(self.report.pulls.values()), sum(self.report.excused.values())
            self._say(f"{pulls} pulls, {excused} failed in trouble, {len(self.report.faults)} faults")

    # The end

    async def _settle(self) -> None:
        """All is well again: every repository pulls whole, nothing runs, the store is true, nothing has grown."""
        await asyncio.sleep(GRACE_S)
        await asyncio.gather(*(self._sweep(repository) for repository in sorted(self.content.images)))
        await self._idle()
        self.report.jobs_left = int(await self._metric("cistern_hydrations_queued"))
        await asyncio.sleep(LOOK_EVERY_S + 1.0)  # what the last crowd left is given back by then
        await self._look()
        first, last = self.report.footprints[0], self.report.footprints[-1]
        before = self.report.lows(2)[0]
        if last.resident_bytes > before + MEMORY_GROWTH:
            self.report.fault(f"memory grew from {before} bytes at its lowest to {last.resident_bytes} at rest")
        if last.files > first.files + FILES_GROWTH:
            self.report.fault(f"open descriptors grew from {first.files} to {last.files}")
        self.report.restarts = sum(period.kind in AWAY for period in self.weather.periods)
        await asyncio.to_thread(self._judge_disk)
        code = await self.cistern.terminate()
        if code != 0:
            self.report.fault(f"it ended with {code}")
        self._judge_log()

    async def _sweep(self, repository: str) -> None:
        """One repository pulls whole again, at the latest when the last gate has opened."""
        loop, rng = asyncio.get_running_loop(), self.trouble.chance(f"sweep {repository}")
        deadline = loop.time() + max(SETTLE_S, *GRACE_OF.values())
        while not await self._pull(plain, repository, rng):
            if loop.time() > deadline:
                self.report.fault(f"{repository} does not pull, though all is well again")
                return
            await asyncio.sleep(1.0)

    async def _idle(self) -> None:
        """Wait until nothing is on its way any more; jobs that wait for their next attempt may go on waiting."""
        gauges = ("cistern_downloads_running", "cistern_download_readers")
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while busy := {name: value for name in gauges if (value := await self._metric(name))}:
            if asyncio.get_running_loop().time() > deadline:
                self.report.fault(f"still running {SETTLE_S:.0f} s after the last client left: {busy}")
                return
            await asyncio.sleep(0.1)

    async def _metric(self, name: str) -> float:
        async with aiohttp.ClientSession() as session, session.get(f"{self.cistern.admin_url}/metrics") as got:
            families = text_string_to_metric_families(await got.text())
        return sum(sample.value for family in families for sample in family.samples if sample.name == name)

    async def _look(self) -> None:
        assert self.cistern.pid is not None
        self.report.footprints.append(await asyncio.to_thread(Footprint.of, self.cistern.pid))

    def _judge_disk(self) -> None:
        try:
            assert_store_true(self.cistern.cache_dir)
        except AssertionError as wrong:
            self.report.fault(f"the store is not true: {wrong}")
        files = [path for path in self.cistern.cache_dir.rglob("*") if path.is_file()]
        self.report.disk_bytes = sum(path.stat().st_size for path in files)
        self.report.content_bytes = self.content.distinct_bytes()
        if self.report.disk_bytes > 1.5 * self.report.content_bytes + 32 * MIB:
            self.report.fault(f"{self.report.disk_bytes} bytes on disk for {self.report.content_bytes} of content")

    def _judge_log(self) -> None:
        for line in self.cistern.log_lines():
            refused = line.get("event") == "config refused, the old one stays"
            expected = refused or (line.get("event") == "wrong content" and line.get("where") in ("upstream", "resume"))
            if line.get("level") in ("error", "critical") and not expected:
                self.report.fault(f"the log: {str(line)[:600]}")
        output = self.cistern.output()
        if "Traceback" in output:
            self.report.fault(f"a traceback: {output[output.index('Traceback') :][:600]}")


@asynccontextmanager
async def soak(home: Path, seed: int, say: Callable[[str], None], max_size: int | None = None) -> AsyncIterator[Soak]:
    """A soak ready to run: an upstream with content, its road, and a Cistern process before it.

    With `max_size`, in bytes, the cache is too small for the content: nothing is held for sure, and the cap is watched.
    """
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Registry())
        road = await stack.enter_async_context(FaultProxy("127.0.0.1", registry.port))
        content = Content(registry, random.Random(f"{seed}/content"))
        content.fill()
        upstreams = {HOST: {"endpoints": [{"url": road.url}], **UPSTREAM}}
        config = deepcopy(CONFIG) | {"upstreams": upstreams}
        if max_size is not None:
            config["cache"] = {"max_size": f"{max_size}B"}
        cistern = CisternProcess(home / "cistern", config)
        await stack.enter_async_context(cistern)
        scratch = home / "scratch"
        scratch.mkdir()
        yield Soak(Trouble(content, Weather(), road, cistern, seed, config), scratch, say, max_size)
