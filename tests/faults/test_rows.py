"""Every fault row, with one client and with eight at different offsets, against Cistern in this process."""

from pathlib import Path

import pytest

from tests.faults.here import here
from tests.faults.playing import play
from tests.faults.rows import ROWS, Row
from tests.faults.stage import staged
from tests.support.clock import Clock

PATIENCE_S = 10.0  # a client that waits longer calls the cache hung


@pytest.mark.parametrize("clients", [1, 8], ids=["one client", "eight clients"])
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_a_fault_ends_as_the_row_says(cache_dir: Path, clock: Clock, row: Row, clients: int) -> None:
    """Clients, upstream, cache and signals are as the row says, and after it the next pull is whole."""
    async with staged(clock) as stage, here(cache_dir, stage, clock, row.keys) as subject:
        seen = await play(row, stage, subject, clients, patience_s=PATIENCE_S)
    assert seen.faults == [], f"{seen.words}; asked {seen.asked}, {seen.copies:.2f} copies, {seen.committed}"
