"""The soak that every gate runs: a minute of everything at once; `make soak` runs an hour of it."""

import os
from pathlib import Path

import pytest

from tests.soak.run import soak

SECONDS = 45.0  # with start, settling and judging about a minute
LONG_SECONDS = 600.0
SMALL_SECONDS = 300.0
SMALL = 24 << 20
SEED = 20_261_123


async def soaked(home: Path, seconds: float, max_size: int | None = None) -> None:
    """Soak with the seed of CISTERN_SEED, or the same one in every run; the report must tell of no fault."""
    seed = int(os.environ.get("CISTERN_SEED", SEED))
    async with soak(home, seed, print, max_size) as running:
        report = await running.run(seconds)
    print(report)
    assert report.faults == [], report
    assert report.restarts >= 1


@pytest.mark.timeout(240)
async def test_a_minute_of_everything_leaves_no_trace(short_tmp: Path) -> None:
    """No wrong byte, no failed pull that need not fail, and nothing grows."""
    await soaked(short_tmp, SECONDS)


@pytest.mark.long
@pytest.mark.timeout(1200)
async def test_ten_minutes_of_everything_leave_no_trace(short_tmp: Path) -> None:
    """The same for longer, so that what grows slowly shows."""
    await soaked(short_tmp, LONG_SECONDS)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_a_cache_too_small_for_its_content_keeps_its_cap(short_tmp: Path) -> None:
    """Images come and go while all that goes on, and the directory never takes more than it may."""
    await soaked(short_tmp, SMALL_SECONDS, SMALL)
