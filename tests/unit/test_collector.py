"""The collector kept out of great work, and back afterwards."""

import contextlib
import gc
from collections.abc import Iterator

import pytest

from proxy.collector import MANY, settle, undisturbed


@pytest.fixture(autouse=True)
def _thawed() -> Iterator[None]:
    """Whatever a test sets aside is looked at again after it."""
    yield
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_inside_and_the_collector_is_back_after() -> None:
    """Also when the work fails; one that was off before stays off."""
    seen: list[bool] = []
    with contextlib.suppress(ValueError), undisturbed():
        seen.append(gc.isenabled())
        raise ValueError("bad")
    assert (seen, gc.isenabled()) == ([False], True)
    gc.disable()
    with undisturbed():
        pass
    assert not gc.isenabled()


@pytest.mark.parametrize(("count", "is_much"), [(10, False), (2 * MANY, True)])
def test_much_that_stays_is_set_aside(count: int, is_much: bool) -> None:
    """A small config leaves the collector as it was."""
    gc.collect()
    before = gc.get_freeze_count()
    with undisturbed():
        kept = [[n] for n in range(count)]
    assert (gc.get_freeze_count() > before) is is_much
    assert len(kept) == count


def test_what_a_start_made_is_not_walked_again() -> None:
    """It is neither collected nor counted from then on; what is made later is."""
    kept = [[n] for n in range(1000)]
    settle()
    frozen = gc.get_freeze_count()
    assert frozen > 1000
    assert not any(found is kept for found in gc.get_objects())
    later = [[n] for n in range(1000)]
    assert any(found is later for found in gc.get_objects())
