"""Requests counted in a serving process: told once, in messages that fit, and merged as if the engine had counted."""

import pytest

from proxy.cells import Cell
from proxy.exchange import Exchange
from proxy.outcome import Result
from proxy.workers.channel import MESSAGE_MAX
from proxy.workers.counts import HEARD_MAX, Tally, cells_of
from proxy.workers.wire import WireBroken, decode, encode
from proxy.workers.words import Counted, Counts, Heard


def ended(method: str = "GET", status: int = 200, sent: int = 5) -> Exchange:
    exchange = Exchange("1", "::1", method, clock=lambda: 0.0)
    exchange.begin(status)
    exchange.sent = sent
    exchange.end(Result.HIT)
    return exchange


def told(tally: Tally) -> Counts:
    cells, heard = tally.take()
    message, _ = decode(encode(Counts(cells, heard, 0, 0)))
    assert isinstance(message, Counts)
    return message


def test_what_was_counted_is_told_once() -> None:
    """Cells and uses; what comes later begins anew."""
    tally = Tally()
    for sent in (5, 7):
        tally.count(ended(sent=sent))
    tally.count(ended(status=206))
    tally.hear(Heard("/a", "d"))
    tally.hear(Heard("/a", "d"))
    assert tally
    counts = told(tally)
    assert not tally
    assert told(tally) == Counts((), (), 0, 0)
    found = dict(cells_of(counts))
    cell = found["", "other", "GET", Result.HIT, 200]
    assert (cell.requests, cell.sent, sum(cell.within)) == (2, 12, 2)
    assert len(found) == 2
    assert counts.heard == (Heard("/a", "d"),)


def test_cells_merge_to_what_one_process_had_counted() -> None:
    """Whoever counts, a scrape shows the same."""
    one, other, both = Cell(), Cell(), Cell()
    for number, cell in enumerate((one, other, other)):
        cell.add(number, 0.002 * number)
        both.add(number, 0.002 * number)
    one.add(3, None)
    both.add(3, None)
    one.merge(other)
    assert (one.requests, one.sent, one.first_s, one.within) == (both.requests, both.sent, both.first_s, both.within)


def test_a_crowd_of_labels_and_targets_takes_several_messages() -> None:
    """Each fits, whatever clients make up; uses beyond a bound are not told at all."""
    tally = Tally()
    for number in range(300):
        tally.count(ended(method=f"{'x' * 1000}{number}"))
    for number in range(HEARD_MAX + 10):
        tally.hear(Heard(f"/{number}{'x' * 1000}", "d" * 71))
    requests = heard = 0
    while tally:
        cells, uses = tally.take()
        assert len(encode(Counts(cells, uses, 0, 0))) < MESSAGE_MAX
        requests += sum(cell.requests for cell in cells)
        heard += len(uses)
    assert (requests, heard) == (300, HEARD_MAX)


@pytest.mark.parametrize(
    "cell",
    [
        Counted("", "blob", "GET", "won", 200, 1, 0, 0.0, (0,) * 15),
        Counted("", "blob", "GET", "hit", 200, 1, 0, 0.0, (0,) * 3),
    ],
    ids=["an outcome that is none", "other buckets"],
)
def test_what_nobody_counts_so_is_refused(cell: Counted) -> None:
    """It ends the connection, and no metric."""
    with pytest.raises(WireBroken):
        list(cells_of(Counts((cell,), (), 0, 0)))
