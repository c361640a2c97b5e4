"""Requests that a serving process answered without a question: counted there as the engine counts, told later."""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from proxy.cells import Cell, Labels
from proxy.exchange import Exchange
from proxy.outcome import Result
from proxy.workers.wire import WireBroken
from proxy.workers.words import Counted, Counts, Heard

AT_ONCE: Final = 64  # of each kind in one message: a target has 1 KiB at most, a method 64 KiB
HEARD_MAX: Final = 10_000  # uses that wait to be told; more are not


def cells_of(counts: Counts) -> Iterator[tuple[Labels, Cell]]:
    """What was told, as it is counted. WireBroken: no serving process counts so."""
    for told in counts.cells:
        try:
            labels = (told.rule, told.kind, told.method, Result(told.outcome), told.status)
        except ValueError as cause:
            raise WireBroken(f"{told.outcome} is no outcome") from cause
        cell = Cell()
        if len(told.within) != len(cell.within):
            raise WireBroken("the counts have other buckets")
        cell.requests, cell.sent, cell.first_s, cell.within = told.requests, told.sent, told.first_s, list(told.within)
        yield labels, cell


class Tally:
    """What one serving process counted since it last told."""

    def __init__(self) -> None:
        self._cells: dict[Labels, Cell] = {}
        self._heard: dict[Heard, None] = {}

    def count(self, exchange: Exchange) -> None:
        """One request ended."""
        labels = (exchange.rule, exchange.kind, exchange.method, exchange.result or Result.ERROR, exchange.status)
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = Cell()
        cell.add(exchange.sent, exchange.first_byte_s)

    def hear(self, heard: Heard) -> None:
        """Content was used."""
        if len(self._heard) < HEARD_MAX:
            self._heard[heard] = None

    def __bool__(self) -> bool:
        return bool(self._cells or self._heard)

    def take(self) -> tuple[tuple[Counted, ...], tuple[Heard, ...]]:
        """What fits into one message; it is not counted here any more."""
        labels, heard = list(islice(self._cells, AT_ONCE)), tuple(islice(self._heard, AT_ONCE))
        for one in heard:
            del self._heard[one]
        return tuple(_told(names, self._cells.pop(names)) for names in labels), heard


def _told(labels: Labels, cell: Cell) -> Counted:
    rule, kind, method, result, status = labels
    return Counted(rule, kind, method, result.value, status, cell.requests, cell.sent, cell.first_s, tuple(cell.within))
