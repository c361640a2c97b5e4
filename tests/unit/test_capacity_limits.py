"""Room on the disk as pure functions: both limits, growth, days to full, and the word for a refusal."""

import errno

import pytest

from proxy.capacity import Limits, days_to_full, growth_per_day
from proxy.capacity.trouble import reason_of
from proxy.config import Share
from proxy.store.census import Room
from tests.support.roomy import GIB

DISK = Room(total=100 * GIB, used=40 * GIB, free=60 * GIB)
DAY = 86_400.0


@pytest.mark.parametrize(
    ("max_size", "keep_free", "committed", "left"),
    [
        (Share(bytes=10 * GIB), Share(bytes=0), 4 * GIB, 6 * GIB),
        (Share(percent=50), Share(bytes=0), 4 * GIB, 46 * GIB),
        (Share(percent=50), Share(percent=20), 4 * GIB, 40 * GIB),
        (Share(percent=50), Share(bytes=59 * GIB), 4 * GIB, 1 * GIB),
        (Share(bytes=500 * GIB), Share(bytes=0), 4 * GIB, 60 * GIB),
        (Share(bytes=3 * GIB), Share(bytes=0), 4 * GIB, -1 * GIB),
        (Share(percent=100), Share(percent=80), 4 * GIB, -20 * GIB),
    ],
    ids=["size", "share", "kept free share", "kept free size", "more than the disk", "lowered", "others fill it"],
)
def test_both_limits_hold_at_once(max_size: Share, keep_free: Share, committed: int, left: int) -> None:
    """The smaller room counts: under the cap, and above what is kept free."""
    assert Limits(max_size, keep_free).left(DISK, committed, committed) == left


def test_what_was_promised_since_the_look_comes_off_what_was_free() -> None:
    """The file system is looked at now and then: what we took or promised meanwhile is known without it."""
    limits = Limits(Share(percent=100), Share(percent=20))
    assert limits.left(DISK, committed=14 * GIB, taken_at_look=4 * GIB) == 30 * GIB
    assert limits.left(DISK, committed=1 * GIB, taken_at_look=4 * GIB) == 43 * GIB


def test_a_cap_beyond_the_disk_is_the_disk() -> None:
    """`max_size` above what the disk has: the disk counts."""
    assert Limits(Share(bytes=500 * GIB), Share(bytes=0)).cap(DISK) == 100 * GIB


@pytest.mark.parametrize(
    ("sizes", "used", "growth"),
    [
        ([], 10, None),
        ([(9.99 * DAY, 5)], 10, None),
        ([(9 * DAY, 4), (9.5 * DAY, 8)], 10, 6.0),
        ([(1 * DAY, 0), (8 * DAY, 6)], 10, 2.0),
        ([(8 * DAY, 20)], 10, -5.0),
    ],
    ids=["none", "too young", "oldest of the window", "too old", "shrinks"],
)
def test_growth(sizes: list[tuple[float, int]], used: int, growth: float | None) -> None:
    """Bytes per day since the oldest size of the last week, at least an hour old."""
    assert growth_per_day(sizes, 10 * DAY, used) == growth


def test_days_to_full() -> None:
    """What is left over what is added a day; 0 when it is full, None when it does not grow."""
    assert days_to_full(100, 20.0) == 5.0
    assert days_to_full(0, None) == 0.0
    assert days_to_full(100, None) is None
    assert days_to_full(100, -3.0) is None


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "disk_full"),
        (errno.EDQUOT, "disk_full"),
        (errno.EROFS, "disk_read_only"),
        (errno.EIO, "disk_failed"),
        (errno.EMFILE, "descriptors"),
        (errno.ENOENT, "disk"),
    ],
)
def test_a_refusal_has_one_of_a_few_reasons(number: int, reason: str) -> None:
    """The word of Cache-Status, log and metric."""
    assert reason_of(OSError(number, "x")) == reason
