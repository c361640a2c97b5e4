"""The matrix of trouble: held images pull through HAProxy and two Cisterns whatever the upstream does, and in time."""

from pathlib import Path

import pytest

from tests.faults.matrix import CLIENTS, play, table
from tests.faults.troubles import STATES, TROUBLES, Trouble

pytestmark = pytest.mark.real
# What the gate plays, with skopeo alone; the whole matrix is long.
THIN = ("upstream down", "index deleted, upstream down")


def named(*names: str) -> list[Trouble]:
    return [trouble for trouble in TROUBLES if trouble.name in names]


@pytest.mark.parametrize("trouble", named(*THIN), ids=lambda trouble: trouble.name)
async def test_what_is_held_pulls_in_trouble(short_tmp: Path, trouble: Trouble) -> None:
    """skopeo pulls what is held, is refused what is not, and HAProxy keeps both members."""
    cells, wrong = await play(short_tmp / "m", trouble, ("held", "cold"), ("skopeo",))
    assert wrong == [], table(cells)
    assert [cell.outcome.succeeded for cell in cells] == [True, False]


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
async def test_the_whole_matrix(short_tmp: Path, trouble: Trouble) -> None:
    """Held, half-held and cold images, with skopeo, ctr and podman."""
    cells, wrong = await play(short_tmp / "m", trouble)
    assert wrong == [], table(cells)
    assert len(cells) == len(STATES) * len(CLIENTS)
