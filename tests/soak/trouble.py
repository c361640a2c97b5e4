"""Who makes trouble during a soak: the upstream and its road, kills and restarts, tags that move, images that go.

Each actor has chance of its own, made from the soak's seed: what it decides is replayed, when it happens is the
machine's. Actors run until they are cancelled, and leave everything healed.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from tests.soak.content import HOST, Content
from tests.soak.weather import Weather
from tests.support import script
from tests.support.cistern import CisternProcess
from tests.support.faults import End, FaultProxy
from tests.support.wire import Answer, Fault

BOTH: Final = ("GET", "HEAD")
CALM_S: Final = (0.5, 10.0)  # between two troubles of the upstream: in the longer ones nothing is excused
TROUBLE_S: Final = (0.3, 5.0)
MOVE_S: Final = (0.5, 1.5)
LIFE_S: Final = (6.0, 14.0)  # from one start of Cistern to its next end
RELOAD_S: Final = (1.0, 4.0)
# Configurations that are refused: no YAML, an unknown key, a rule whose upstream does not exist.
BROKEN: Final = ("upstreams: [", "registry: {listn: ':1'}\n", "rules: [{name: x, repository: a/*, upstream: none/*}]\n")
VERSIONS: Final = 3  # images that a repository keeps


@dataclass(slots=True)
class Trouble:
    """What every actor touches."""

    content: Content
    weather: Weather
    road: FaultProxy
    cistern: CisternProcess
    seed: int
    config: dict[str, Any]
    _configuring: asyncio.Lock = field(default_factory=asyncio.Lock)  # nobody starts from a broken file

    def chance(self, actor: str) -> random.Random:
        return random.Random(f"{self.seed}/{actor}")

    # The upstream

    async def upstream(self) -> None:
        """One fault after another, with calm between."""
        rng = self.chance("upstream")
        faults = self._faults(rng)
        while True:
            await asyncio.sleep(rng.uniform(*CALM_S))
            kind = rng.choice(sorted(faults))
            with self.weather.period(kind):
                try:
                    faults[kind]()
                    await asyncio.sleep(rng.uniform(*TROUBLE_S))
                finally:
                    self.content.registry.heal()
                    self.road.heal()

    def _faults(self, rng: random.Random) -> Mapping[str, Callable[[], object]]:
        registry, road = self.content.registry, self.road

        def answers(*faults: Fault) -> Callable[[], object]:
            return lambda: registry.script("*", *faults, methods=BOTH)

        def narrow() -> None:
            road.down.bytes_per_s = 4_000_000

        def slow() -> None:
            road.down.latency_s = road.up.latency_s = 0.01

        def refuse() -> None:
            road.refusing = True
            road.reset()

        def cut() -> None:
            road.down.cut_after, road.down.end = rng.randrange(20_000, 900_000), rng.choice(list(End))

        def ignore_ranges() -> None:
            registry.script("*", script.ignore_range)
            cut()

        return {
            "narrow": narrow,
            "slow": slow,
            "refused": refuse,
            "reset": road.reset,
            "stalled": road.stall,
            "cut": cut,
            "ranges ignored": ignore_ranges,
            "silent": lambda: registry.hold_headers("*"),
            "500": answers(script.error(500)),
            "503": answers(script.error(503)),
            "429": answers(script.throttle("1")),
            "html": answers(script.html()),
            "403": answers(script.error(403, "DENIED")),
            "wrong bytes": answers(self._spoil),
        }

    def _spoil(self, answer: Answer) -> Answer:
        told = answer.headers.get("Docker-Content-Digest")
        if told is None or not answer.body:
            return answer
        self.content.taint(told)
        return script.spoil(0)(answer)

    # Cistern

    async def lives(self) -> None:
        """Ended by SIGKILL or SIGTERM, and started again, over and over."""
        rng = self.chance("lives")
        while True:
            await asyncio.sleep(rng.uniform(*LIFE_S))
            kind = rng.choice(("killed", "killed", "terminated"))
            await asyncio.shield(asyncio.ensure_future(self._restart(kind)))

    async def _restart(self, kind: str) -> None:
        """Never left half done: who is cancelled meanwhile finds Cistern running."""
        async with self._configuring:
            await self._end_and_start(kind)

    async def _end_and_start(self, kind: str) -> None:
        with self.weather.period(kind):
            if kind == "killed":
                await self.cistern.kill()
            else:
                code = await self.cistern.terminate()
                assert code == 0, f"after SIGTERM it ended with {code}"
            await self.cistern.start()

    async def reloads(self) -> None:
        """The file changes, to something good or to something that is refused and then mended."""
        rng = self.chance("reloads")
        while True:
            await asyncio.sleep(rng.uniform(*RELOAD_S))
            broken = rng.choice((None, *BROKEN))
            self.config["tags"]["fresh_for"] = rng.choice(("1s", "2s"))
            await asyncio.shield(asyncio.ensure_future(self._reload(broken)))

    async def _reload(self, broken: str | None) -> None:
        async with self._configuring:
            if broken is not None:
                with self.weather.period("broken reload"):
                    await self._configured(broken, "config refused, the old one stays")
            with self.weather.period("reload"):
                await self._configured(self.config, "config taken over")

    async def _configured(self, config: dict[str, Any] | str, event: str) -> None:
        """Write the file, ask by SIGHUP, and wait until it says so."""
        since = self.cistern.said
        self.cistern.configure(config)
        self.cistern.reload()
        await self.cistern.logged(lambda line: line["event"] == event, since=since)

    # Content

    async def moves(self) -> None:
        """Tags move; an image that is some versions old is evicted, and leaves the upstream."""
        rng = self.chance("moves")
        while True:
            await asyncio.sleep(rng.uniform(*MOVE_S))
            repository = rng.choice(sorted(self.content.images))
            self.content.move(repository)
            if len(self.content.images[repository]) > VERSIONS:
                await self._evict(repository)

    async def _evict(self, repository: str) -> None:
        oldest = self.content.images[repository][0]
        self.content.unhold(repository, oldest)
        reference = f"{HOST}/{repository}@{oldest.digest}"
        connector = aiohttp.UnixConnector(str(self.cistern.control))
        with self.weather.period("evict"):
            try:
                async with aiohttp.ClientSession(connector=connector) as session:
                    url = "http://control/api/v1/evict"
                    async with session.post(url, json={"reference": reference}) as answer:
                        text = await answer.text()
                        assert answer.status in (200, 404), f"evict of {reference}: {answer.status} {text}"
            except aiohttp.ClientError:
                return  # Cistern is away: the next move tries again
        self.content.forget(repository, oldest)
