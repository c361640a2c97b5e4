"""How many connections help: played against upstreams that are limited in each connection, in all, or not at all."""

from collections.abc import Callable

import pytest

from proxy.downloads.pace import FAST, WINDOW_S, Lessons, Pace

MB = 1_000_000


def played(pace: Pace, rate: Callable[[int], float], seconds: float = 10.0) -> list[int]:
    """The numbers of connections that a transfer has, one after another; `rate` is the sum that so many bring."""
    found, received, hands, now = [1], 0.0, 1, 0.0
    while now < seconds:
        wanted = pace.note(now, int(received), hands)
        if wanted != hands:
            found.append(wanted)
            hands = wanted
        now += WINDOW_S / 10
        received += rate(hands) * WINDOW_S / 10
    return found


def steady(rate: float) -> Callable[[int], float]:
    """A rate that no number of hands changes."""
    return lambda _hands: rate


@pytest.mark.parametrize(
    ("rate", "most", "expected"),
    [
        pytest.param(lambda hands: hands * 25 * MB, 8, [1, 2, 4, 8], id="each limited"),
        pytest.param(lambda hands: hands * 90 * MB, 8, [1, 2, 4, 8], id="as S3"),
        pytest.param(lambda hands: hands * 25 * MB, 3, [1, 2, 3], id="up to the most"),
        pytest.param(steady(60 * MB), 8, [1, 2, 1], id="limited in all"),
        pytest.param(lambda hands: min(hands, 4) * 25 * MB, 8, [1, 2, 4, 8, 4], id="four fill it"),
        pytest.param(steady(FAST), 8, [1], id="fast"),
        pytest.param(lambda hands: 60 * MB / hands, 8, [1, 2, 1], id="more is less"),
        pytest.param(lambda hands: hands * 25 * MB, 1, [1], id="one allowed"),
    ],
)
def test_as_many_as_help(rate: Callable[[int], float], most: int, expected: list[int]) -> None:
    """One more step only while the sum rises by half of what it could, and back when it does not."""
    assert played(Pace(most), rate) == expected


def test_what_was_found_lately_is_tried_at_once() -> None:
    """A number that helped is the second step; one is not doubted."""
    assert played(Pace(8, known=8), lambda hands: hands * 25 * MB) == [1, 8]
    assert played(Pace(8, known=1), lambda hands: hands * 25 * MB) == [1]


def test_what_was_not_tried_was_not_found() -> None:
    """A fast transfer settles itself, and teaches nothing about the upstream's next ones."""
    for rate, has_tried in ((FAST, False), (60 * MB, True)):
        pace = Pace(8)
        played(pace, steady(rate))
        assert pace.settled
        assert pace.has_tried is has_tried


def test_a_sum_counts_only_while_nobody_comes_or_goes() -> None:
    """A connection that is opened and brings nothing yet says nothing of the sum."""
    pace = Pace(8)
    pace.note(0.0, 0, 1)
    assert pace.note(WINDOW_S, 10 * MB, 1) == 2
    assert pace.note(5 * WINDOW_S, 20 * MB, 1) == 2
    assert pace.note(5.5 * WINDOW_S, 21 * MB, 2) == 2
    assert pace.note(6.4 * WINDOW_S, 90 * MB, 2) == 2
    assert pace.note(6.6 * WINDOW_S, 91 * MB, 2) == 4


def test_a_settled_pace_stays() -> None:
    """After a failure there are no more than were left, and at least one."""
    pace = Pace(8)
    pace.settle(0)
    assert played(pace, lambda hands: hands * 25 * MB) == [1]


def test_lessons_are_kept_for_a_while() -> None:
    """What was found at an upstream is recalled for it alone, until its time is over."""
    lessons = Lessons()
    lessons.learn("a", 4, 100.0)
    lessons.learn("b", 1, 100.0, 9.0)
    assert [lessons.recall("a", now) for now in (100.0, 399.0, 400.0)] == [4, 4, None]
    assert [lessons.recall("b", now) for now in (108.0, 109.0)] == [1, None]
    assert lessons.recall("c", 0.0) is None
