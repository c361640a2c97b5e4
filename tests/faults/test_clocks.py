"""F30 and F37: clocks that jump in mid-run and across a restart, and a thousand clients when a tag's time is over."""

from pathlib import Path

import pytest

from tests.faults import stage as parts
from tests.faults.here import here
from tests.faults.playing import held, play
from tests.faults.rows import ROWS
from tests.faults.stage import TAG, Visit, staged
from tests.support import script
from tests.support.clock import Clock

PATIENCE_S = 20.0
NOW = Clock()()
JUMPS = {"an hour on": 3600.0, "an hour back": -3600.0, "to 1970": 1.0 - NOW, "to 2038": 2_147_483_700.0 - NOW}
CROWDS = pytest.mark.parametrize("clients", [1, 8], ids=["one client", "eight clients"])


@CROWDS
@pytest.mark.parametrize("jump_s", JUMPS.values(), ids=JUMPS.keys())
async def test_a_jump_makes_no_storm_and_nothing_eternal(
    cache_dir: Path, clock: Clock, jump_s: float, clients: int
) -> None:
    """The wall clock jumps and comes back: everybody is served, one check each time at most, in an outage too."""
    async with staged(clock) as stage, here(cache_dir, stage, clock, monotonic=Clock(1000.0)) as subject:
        await held(stage, subject, PATIENCE_S)
        visit = Visit(stage, subject, clients, PATIENCE_S)
        for turn in (jump_s, 0.0, -jump_s, 0.0):
            stage.forget()
            clock.advance(turn)
            assert set(await visit.crowd(parts.tag)) == {"exact"}
            assert set(await visit.crowd(parts.layer)) == {"exact"}
            assert stage.asked(TAG) <= 1
            assert stage.asked(stage.layer.digest) == 0
        stage.registry.script("*", script.error(503), methods=("GET", "HEAD"))
        clock.advance(jump_s)
        assert set(await visit.crowd(parts.tag)) <= {"stale", "exact"}
        stage.heal()
        stage.move()
        clock.advance(61.0)
        words = [(await visit.crowd(parts.tag))[0] for _ in range(2)]
        assert words[-1] == "exact", "a tag stayed old"


@pytest.mark.parametrize("jump_s", JUMPS.values(), ids=JUMPS.keys())
async def test_a_jump_across_a_restart_is_no_different(cache_dir: Path, clock: Clock, jump_s: float) -> None:
    """The next process finds stamps of another time: it serves what is held, and checks the tag once."""
    async with staged(clock) as stage:
        async with here(cache_dir, stage, clock) as subject:
            await held(stage, subject, PATIENCE_S)
        clock.advance(jump_s)
        stage.forget()
        async with here(cache_dir, stage, clock) as subject:
            visit = Visit(stage, subject, 8, PATIENCE_S)
            assert set(await visit.crowd(parts.tag)) == {"exact"}
            assert set(await visit.crowd(parts.layer)) == {"exact"}
        assert stage.asked(TAG) <= 1
        assert stage.asked(stage.layer.digest) == 0


@pytest.mark.timeout(180)
async def test_a_thousand_clients_cost_one_check(cache_dir: Path, clock: Clock) -> None:
    """F37 with a thousand at once: one HEAD upstream, and each is answered."""
    [row] = [row for row in ROWS if row.id == "F37"]
    async with staged(clock) as stage, here(cache_dir, stage, clock) as subject:
        seen = await play(row, stage, subject, 1000, patience_s=60.0)
    assert (seen.faults, seen.clients["exact"], seen.asked) == ([], 1000, 1)
