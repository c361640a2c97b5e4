"""The circuit breaker's gate: the four traps of the library below it, and the window rule."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from proxy.upstream.breaker import Breaker, Call, CircuitOpen
from tests.unit.upstream_peers import Hand


@dataclass(frozen=True)
class Settings:
    failures: int = 3
    window_s: float = 30.0
    reset_after_s: float = 10.0


def opened(hand: Hand, settings: Settings | None = None) -> Breaker:
    breaker = Breaker(settings or Settings(), monotonic=hand)
    for _ in range(3):
        breaker.enter().failed()
    assert breaker.state == "open"
    return breaker


def test_it_opens_after_failures_in_a_row_and_says_for_how_long() -> None:
    """Two failures and a success leave it closed, three in a row open it for `reset_after`."""
    hand = Hand()
    breaker = Breaker(Settings(), monotonic=hand)
    for outcome in (*[Call.succeeded] * 6, Call.failed, Call.failed, Call.succeeded, Call.failed, Call.failed):
        outcome(breaker.enter())
    assert breaker.state == "closed"
    breaker.enter().failed()
    assert breaker.state == "open"
    hand.now += 4
    with pytest.raises(CircuitOpen) as refused:
        breaker.enter()
    assert refused.value.retry_after_s == 6.0


def test_it_opens_when_most_calls_of_the_window_fail_though_none_in_a_row() -> None:
    """Successes in between do not hide an upstream that fails two calls of three."""
    breaker = Breaker(Settings(failures=4), monotonic=Hand())
    for outcome in (Call.failed, Call.succeeded, Call.failed, Call.failed, Call.succeeded):
        outcome(breaker.enter())
    assert breaker.state == "closed"
    breaker.enter().failed()
    assert breaker.state == "open"


def test_failures_outside_the_window_and_a_failing_half_do_not_open_it() -> None:
    """Old failures are forgotten, and one failure for each success is not more than half."""
    hand = Hand()
    breaker = Breaker(Settings(), monotonic=hand)
    for _ in range(10):
        breaker.enter().succeeded()
        breaker.enter().failed()
    assert breaker.state == "closed"
    hand.now += 31
    breaker.enter().failed()
    assert breaker.state == "closed"


def test_cancellations_and_bad_content_never_count() -> None:
    """A call left without a report changes nothing, closed or half open."""
    hand = Hand()
    breaker = Breaker(Settings(), monotonic=hand)
    for _ in range(10):
        breaker.enter().abandon()
    breaker.enter().failed()
    assert breaker.state == "closed"
    breaker = opened(hand)
    hand.now += 10
    breaker.enter().abandon()
    assert breaker.state == "half-open"
    breaker.enter().succeeded()
    assert breaker.state == "closed"


def test_half_open_lets_one_probe_through() -> None:
    """Of ten calls after the wait one goes, nine are told to come back; its success closes the circuit."""
    hand = Hand()
    breaker = opened(hand)
    hand.now += 10
    assert not breaker.is_open
    probe = breaker.enter()
    for _ in range(9):
        with pytest.raises(CircuitOpen):
            breaker.enter()
    probe.succeeded()
    assert breaker.state == "closed"
    breaker.enter().succeeded()


def test_a_failed_probe_opens_it_for_the_whole_time_again() -> None:
    """The wait starts anew with the probe's failure."""
    hand = Hand()
    breaker = opened(hand)
    hand.now += 10
    breaker.enter().failed()
    hand.now += 9
    assert breaker.is_open
    hand.now += 1
    breaker.enter().succeeded()
    assert breaker.state == "closed"


def test_late_results_of_an_older_state_are_ignored() -> None:
    """Neither a late failure prolongs the open time nor a late success closes the circuit."""
    hand = Hand()
    breaker = Breaker(Settings(), monotonic=hand)
    late_failure, late_success = breaker.enter(), breaker.enter()
    for _ in range(3):
        breaker.enter().failed()
    hand.now += 5
    late_failure.failed()
    late_success.succeeded()
    assert breaker.state == "open"
    hand.now += 5
    assert not breaker.is_open


@pytest.mark.parametrize("report", [Call.succeeded, Call.failed])
def test_late_results_do_not_decide_in_the_probes_place(report: Callable[[Call], None]) -> None:
    """While the probe runs, a call from before the opening neither closes the circuit nor opens it anew."""
    hand = Hand()
    breaker = Breaker(Settings(), monotonic=hand)
    late = breaker.enter()
    for _ in range(3):
        breaker.enter().failed()
    hand.now += 10
    probe = breaker.enter()
    report(late)
    assert breaker.state == "half-open"
    probe.succeeded()
    assert breaker.state == "closed"


def test_a_call_reports_once() -> None:
    """Its first report counts, what follows is no second one."""
    breaker = Breaker(Settings(failures=2), monotonic=Hand())
    call = breaker.enter()
    call.failed()
    call.failed()
    call.abandon()
    assert breaker.state == "closed"
