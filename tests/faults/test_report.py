"""The table of the fault rows says what was seen, and claims no more."""

from collections import Counter

from benchmarks.faults.report import Played, markdown
from tests.faults.playing import Seen

FACTS = {"cpu": "a cpu", "cores": 2, "kernel": "6.1", "registry": "2.8.2"}


def seen(word: str, *faults: str) -> Seen:
    return Seen(Counter({word: 8}), 1, 1.0, 0.25, "kept", None, recovered=True, faults=list(faults))


def test_both_caches_stand_in_one_line_per_row_and_crowd() -> None:
    """Cells tell clients, requests, copies, what is kept and the time; a failure tells why."""
    text = markdown(
        [
            Played("F08", "cut", 8, "Cistern", seen("exact")),
            Played("F08", "cut", 8, "docker-registry", seen("broken", "a client ended with: broken")),
        ],
        FACTS,
        45.0,
    )
    assert (
        "| F08 | cut | 8 | 8 exact; asked 1x, 1.00 copies; kept; 0.2 s | yes "
        "| 8 broken; asked 1x, 1.00 copies; kept; 0.2 s | NO: a client ended with: broken |"
    ) in text
    assert "Of 1 plays Cistern passes 1, docker-registry 0; 1 only Cistern passes." in text


def test_what_is_served_stale_without_a_mark_is_called_so() -> None:
    """`exact` would say that the upstream was asked; a row that one cache was not played in says that."""
    text = markdown([Played("F15", "503", 1, "docker-registry", seen("exact"), is_marked=True)], FACTS, 45.0)
    assert "8 unmarked" in text
    assert "| F15 | 503 | 1 | not played |  |" in text
    assert "Of 0 plays" in text
