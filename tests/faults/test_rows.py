"""Every fault row, with one client and with eight at different offsets, against Cistern in this process."""

import asyncio
from pathlib import Path

import pytest

from tests.faults.here import here
from tests.faults.playing import play
from tests.faults.rows import ROWS, Row
from tests.faults.stage import Visit, layer, staged
from tests.support import script
from tests.support.clock import Clock

PATIENCE_S = 10.0  # a client that waits longer calls the cache hung


@pytest.mark.parametrize("clients", [1, 8], ids=["one client", "eight clients"])
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_a_fault_ends_as_the_row_says(cache_dir: Path, clock: Clock, row: Row, clients: int) -> None:
    """Clients, upstream, cache and signals are as the row says, and after it the next pull is whole."""
    async with staged(clock) as stage, here(cache_dir, stage, clock, row.keys) as subject:
        seen = await play(row, stage, subject, clients, patience_s=PATIENCE_S)
    assert seen.faults == [], f"{seen.words}; asked {seen.asked}, {seen.copies:.2f} copies, {seen.committed}"


async def test_who_waits_when_the_circuit_opens_is_refused_at_once(cache_dir: Path, clock: Clock) -> None:
    """An upstream that is silent to one client and fails five others: the first need not wait for its timeout."""
    async with staged(clock) as stage, here(cache_dir, stage, clock, headers="60s") as subject:
        silent = stage.registry.hold_headers(stage.layer.digest)
        waiting = Visit(stage, subject, 3, PATIENCE_S)
        async with asyncio.TaskGroup() as both:
            crowd = both.create_task(waiting.crowd(layer))
            await silent.reached()
            stage.registry.script("*", script.error(503), methods=("GET", "HEAD"))
            for number in range(10):
                failing = await Visit(stage, subject, 1, PATIENCE_S).start("manifests", f"missing-{number}")
                await failing.rest()
                assert failing.status == 503
        assert crowd.result() == ["503+"] * 3
        assert await subject.signal("cistern_breaker_open") == 1
