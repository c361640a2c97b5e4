"""When a process that died is started again."""

from proxy.processes.children import LONGEST_PAUSE_S, STEADY_S, Pauses


def test_the_first_death_costs_no_pause_and_more_cost_more() -> None:
    """Up to a bound that clients can wait for."""
    pauses = Pauses()
    taken = [pauses.after(0.1) for _ in range(8)]
    assert taken[:4] == [0.0, 0.1, 0.2, 0.4]
    assert taken[-1] == LONGEST_PAUSE_S


def test_who_stayed_is_started_at_once() -> None:
    """A long life makes earlier deaths forgotten."""
    pauses = Pauses()
    for _ in range(5):
        pauses.after(0.1)
    assert pauses.after(STEADY_S) == 0.0
    assert pauses.after(0.1) == 0.1
