"""A road between a client and Cistern that is spoilt: nobody else notices, the upstream sends one copy, all is kept."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.oci import Digest
from tests.faults import stage as parts
from tests.faults.here import Here, here
from tests.faults.playing import committed
from tests.faults.stage import MIB, Stage, Visit, staged
from tests.support.clock import Clock
from tests.support.faults import End, FaultProxy
from tests.support.pulling import Pulling

PATIENCE_S = 20.0


@dataclass(slots=True)
class Behind:
    """The same subject, seen by a client from behind a road of its own."""

    subject: Here
    road: FaultProxy

    @property
    def netloc(self) -> str:
        return self.road.netloc

    @property
    def prefix(self) -> str:
        return self.subject.prefix

    def committed(self, digest: Digest) -> bytes | None:
        return self.subject.committed(digest)

    async def quiet(self) -> None:
        await self.subject.quiet()

    async def age(self, seconds: float) -> None:
        await self.subject.age(seconds)

    async def signal(self, metric: str) -> float | None:
        return await self.subject.signal(metric)


def cut(end: End) -> Callable[[FaultProxy], None]:
    """Bytes to the client end after half a MiB."""

    def spoil(road: FaultProxy) -> None:
        road.down.cut_after, road.down.end = MIB // 2, end

    return spoil


def far(road: FaultProxy) -> None:
    road.down.latency_s = road.up.latency_s = 0.002


def narrow(road: FaultProxy) -> None:
    road.down.bytes_per_s = 8 * MIB


ROADS: dict[str, tuple[Callable[[FaultProxy], None], str]] = {
    "closed": (cut(End.CLOSE), "broken"),
    "reset": (cut(End.RESET), "broken"),
    "half-closed": (cut(End.HALF), "broken"),
    "far": (far, "exact"),
    "narrow": (narrow, "exact"),
}


@pytest.mark.parametrize("others", [0, 7], ids=["alone", "with seven others"])
@pytest.mark.parametrize(("spoil", "word"), ROADS.values(), ids=ROADS.keys())
async def test_a_spoilt_road_to_a_client_hurts_nobody_else(
    cache_dir: Path, clock: Clock, spoil: Callable[[FaultProxy], None], word: str, others: int
) -> None:
    """The client behind it gets what the road lets through; the transfer goes on to its end for everybody."""
    async with staged(clock) as stage, here(cache_dir, stage, clock) as subject:
        host, _, port = subject.netloc.rpartition(":")
        async with FaultProxy(host, int(port)) as road:
            spoil(road)
            crowds = [Visit(stage, Behind(subject, road), 1, PATIENCE_S).crowd(parts.layer)]
            crowds += [Visit(stage, subject, others, PATIENCE_S).crowd(parts.layer)] if others else []
            words = [found for crowd in await asyncio.gather(*crowds) for found in crowd]
        await subject.quiet()
        assert words == [word, *["exact"] * others]
        assert (stage.asked(stage.layer.digest), committed(stage, subject)) == (1, "kept")


async def test_a_stalled_road_holds_up_only_its_client(cache_dir: Path, clock: Clock) -> None:
    """A client whose road carries nothing gets its bytes when it flows again; the others did not wait for it."""
    async with staged(clock) as stage, here(cache_dir, stage, clock) as subject:
        host, _, port = subject.netloc.rpartition(":")
        async with FaultProxy(host, int(port)) as road:
            stuck = await started(stage, road.netloc, subject.prefix)
            await stuck.head()
            road.stall()
            assert set(await Visit(stage, subject, 7, PATIENCE_S).crowd(parts.layer)) == {"exact"}
            await subject.quiet()
            assert committed(stage, subject) == "kept"
            road.flow()
            assert await stuck.rest() == stage.layer.data
        assert stage.asked(stage.layer.digest) == 1


async def started(stage: Stage, netloc: str, prefix: str) -> Pulling:
    return await Pulling.start(netloc, f"/v2/{prefix}{parts.REPOSITORY}/blobs/{stage.layer.digest}")
