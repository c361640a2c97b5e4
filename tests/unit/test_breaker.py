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


def broken(hand: Hand, settings: Settings | None = None) -> Breaker:
    """An open breaker whose probes are not jittered."""
    breaker = Breaker(settings or Settings(), monotonic=hand, rng=lambda: 0.0)
    for _ in range(3):
        breaker.enter().failed()
    assert breaker.state == "open"
    return breaker


def probed(breaker: Breaker) -> Call:
    probe = breaker.probe()
    assert probe is not None
    return probe


def test_it_opens_after_failures_in_a_row_and_says_for_how_long() -> None:
    """Two failures and a success leave it closed, three in a row open it for `reset_after`."""
    hand = Hand()
    breaker = Breaker(Settings(), monotonic=hand, rng=lambda: 0.0)
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
    breaker = broken(hand)
    probed(breaker).abandon()
    assert breaker.state == "half-open"
    probed(breaker).succeeded()
    assert breaker.state == "closed"


def test_no_call_of_a_client_is_the_probe() -> None:
    """However late it is, a client is told to come back: one probe at a time goes, and closes the circuit."""
    hand = Hand()
    breaker = broken(hand)
    hand.now += 3600
    with pytest.raises(CircuitOpen) as refused:
        breaker.enter()
    assert refused.value.retry_after_s == 1.0
    probe = probed(breaker)
    for _ in range(9):
        assert breaker.probe() is None
        with pytest.raises(CircuitOpen):
            breaker.enter()
    assert breaker.is_open
    probe.succeeded()
    assert breaker.state == "closed"
    breaker.enter().succeeded()
    assert breaker.probe() is None


def test_probes_are_backed_off_and_jittered() -> None:
    """Due after `reset_after`, twice that, four times that and no longer; up to a fifth later, never sooner."""
    hand, chance = Hand(), iter([0.0, 0.0, 0.5, 1.0, 1.0])
    breaker = Breaker(Settings(), monotonic=hand, rng=lambda: next(chance))
    for _ in range(3):
        breaker.enter().failed()
    waits = [breaker.wait_s]
    for _ in range(4):
        hand.now += breaker.wait_s
        probed(breaker).failed()
        waits.append(breaker.wait_s)
    assert waits == [10.0, 20.0, 44.0, 48.0, 48.0]


def test_an_endpoint_that_answers_the_probe_alone_stays_left_alone() -> None:
    """After the probe one failure opens the circuit again, and the wait goes on growing; a success ends the trial."""
    hand = Hand()
    breaker = broken(hand)
    hand.now += 10
    probed(breaker).succeeded()
    breaker.enter().failed()
    assert (breaker.state, breaker.wait_s) == ("open", 20.0)
    hand.now += 20
    probed(breaker).succeeded()
    breaker.enter().succeeded()
    breaker.enter().failed()
    assert breaker.state == "closed"


def test_a_window_without_trouble_forgets_the_backing_off() -> None:
    """An outage a day is no growing trouble: the first wait is `reset_after` again."""
    hand = Hand()
    breaker = broken(hand)
    began: list[float | None] = [breaker.opened_at]
    hand.now += 10
    probed(breaker).succeeded()
    hand.now += 30
    breaker.enter().succeeded()
    began.append(breaker.opened_at)
    assert began == [1000.0, None]
    for _ in range(3):
        breaker.enter().failed()
    assert (breaker.state, breaker.wait_s) == ("open", 10.0)


def test_late_results_of_an_older_state_are_ignored() -> None:
    """Neither a late failure prolongs the open time nor a late success closes the circuit."""
    hand = Hand()
    breaker = Breaker(Settings(), monotonic=hand, rng=lambda: 0.0)
    late_failure, late_success = breaker.enter(), breaker.enter()
    for _ in range(3):
        breaker.enter().failed()
    hand.now += 5
    late_failure.failed()
    late_success.succeeded()
    assert (breaker.state, breaker.wait_s) == ("open", 5.0)


@pytest.mark.parametrize("report", [Call.succeeded, Call.failed])
def test_late_results_do_not_decide_in_the_probes_place(report: Callable[[Call], None]) -> None:
    """While the probe runs, a call from before the opening neither closes the circuit nor opens it anew."""
    hand = Hand()
    breaker = Breaker(Settings(), monotonic=hand)
    late = breaker.enter()
    for _ in range(3):
        breaker.enter().failed()
    probe = probed(breaker)
    report(late)
    assert breaker.state == "half-open"
    probe.succeeded()
    assert breaker.state == "closed"


def test_the_opening_is_told_each_time() -> None:
    """Whoever probes hears of it at once, also when a probe has failed."""
    told: list[float] = []
    hand = Hand()
    breaker = Breaker(Settings(failures=1), monotonic=hand, on_open=lambda: told.append(hand.now))
    breaker.enter().failed()
    hand.now += 10
    probed(breaker).failed()
    assert told == [1000.0, 1010.0]


def test_a_call_reports_once() -> None:
    """Its first report counts, what follows is no second one."""
    breaker = Breaker(Settings(failures=2), monotonic=Hand())
    call = breaker.enter()
    call.failed()
    call.failed()
    call.abandon()
    assert breaker.state == "closed"
