"""Health's judgements as pure functions: hysteresis, and how each part is judged."""

import pytest

from proxy.health import State, judge
from proxy.health.judge import Heard, Hysteresis, Looked, Part
from tests.support.healthy import GATES, standing


@pytest.mark.parametrize(
    ("judgements", "is_up"),
    [
        pytest.param([(0, False)], True, id="one bad"),
        pytest.param([(0, False), (5, False), (10, False)], True, id="three bad in ten seconds"),
        pytest.param([(0, False), (60, False)], True, id="two bad in a minute"),
        pytest.param([(0, False), (7, False), (15, False)], False, id="three bad over fifteen seconds"),
        pytest.param([(0, False), (5, False), (10, True), (15, False), (20, False)], True, id="broken by a good one"),
        pytest.param([(0, False), (7, False), (15, False), (20, True)], False, id="one good is not back"),
        pytest.param([(0, False), (7, False), (15, False), (20, True), (25, True)], True, id="two good are back"),
        pytest.param(
            [(0, False), (7, False), (15, False), (20, True), (25, False), (30, True)], False, id="good, bad, good"
        ),
    ],
)
def test_a_member_is_down_after_three_bad_judgements_and_back_after_two_good(
    judgements: list[tuple[float, bool]], is_up: bool
) -> None:
    """Down only after 3 bad in a row over at least 15 s; back after 2 good in a row."""
    hysteresis = Hysteresis()
    for now, is_good in judgements:
        hysteresis.judge(now, is_good=is_good)
    assert hysteresis.is_up is is_up


@pytest.mark.parametrize(
    ("part", "state"),
    [
        pytest.param(judge.storage(Looked()), State.OK, id="storage well"),
        pytest.param(judge.storage(Looked(unwritable="Read-only file system")), State.DEGRADED, id="read-only"),
        pytest.param(judge.storage(Looked(unreadable="Input/output error")), State.FAILING, id="unreadable"),
        pytest.param(judge.index(Looked()), State.OK, id="index well"),
        pytest.param(judge.index(Looked(index="malformed")), State.DEGRADED, id="derived index"),
        pytest.param(judge.index(Looked(records="disk I/O error")), State.FAILING, id="records"),
        pytest.param(judge.queue(Looked(queued=3, oldest_s=60)), State.OK, id="queue busy"),
        pytest.param(judge.queue(Looked(queued=3, oldest_s=4000)), State.DEGRADED, id="queue late"),
        pytest.param(judge.endpoint(Heard(), standing(), 0), State.OK, id="endpoint unheard of"),
        pytest.param(judge.endpoint(Heard(), standing(circuit="open"), 0), State.DEGRADED, id="breaker open"),
        pytest.param(judge.endpoint(Heard(), standing(circuit="half-open"), 0), State.DEGRADED, id="breaker half open"),
        pytest.param(judge.endpoint(Heard(2, "503", 0.0), standing(), 1), State.OK, id="two faults"),
        pytest.param(judge.endpoint(Heard(3, "503", 0.0), standing(), 1), State.DEGRADED, id="three faults"),
        pytest.param(judge.endpoint(Heard(3, "503", 0.0), standing(), 1000), State.OK, id="three faults long ago"),
        pytest.param(judge.endpoint(Heard(), standing(throttled=GATES), 0), State.DEGRADED, id="throttled"),
        pytest.param(judge.trouble(Heard(), 0, "x"), State.OK, id="no trouble"),
        pytest.param(judge.trouble(Heard(1, "wrong_digest", 0.0), 1, "x"), State.DEGRADED, id="a lie"),
        pytest.param(judge.trouble(Heard(), 0, "x", "not set"), State.DEGRADED, id="no secret"),
    ],
)
def test_a_part_is_judged(part: Part, state: State) -> None:
    """Only what makes serving held content impossible fails; anything else degrades."""
    assert part.state is state
    assert (part.why is None) is (state is State.OK)


def test_an_upstream_with_one_good_endpoint_is_well() -> None:
    """Failover within an upstream is no trouble; all of its endpoints in trouble is."""
    bad = Part(State.DEGRADED, "it is away")
    assert judge.upstream([bad, judge.OK], judge.OK).state is State.OK
    assert judge.upstream([bad, bad], judge.OK) == bad
    assert judge.upstream([], judge.OK).state is State.OK


def test_latency_is_smoothed() -> None:
    """One slow answer does not hide a minute of quick ones."""
    heard = Heard()
    heard.answer(0, 0.1)
    heard.answer(1, 1.1)
    assert heard.latency_s == pytest.approx(0.3)
