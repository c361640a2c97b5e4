"""Requests of clients, counted: one cell per set of labels, read as three metrics when they are scraped.

This stands on the way of every request, so it is plain numbers in one dictionary: a child of a Prometheus counter is
found through a lock and a tuple of texts, and three of them took 8 us where this takes 0.5.
"""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from proxy.cells import NAMES, Cell, Labels
from proxy.exchange import Exchange
from proxy.metrics.words import METHODS, among
from proxy.outcome import Result
from proxy.rules import Rules


class Requests:
    """A collector for the Prometheus library. `rules` tells which names may be labels."""

    def __init__(self, rules: Callable[[], Rules]) -> None:
        self._rules = rules
        self._cells: dict[Labels, Cell] = {}

    def count(self, exchange: Exchange) -> None:
        """One request of a client ended. A status of 0: the connection ended before an answer had one."""
        labels = (exchange.rule, exchange.kind, exchange.method, exchange.result or Result.ERROR, exchange.status)
        cell = self._cells.get(labels) or self._bounded(labels)
        cell.add(exchange.sent, exchange.first_byte_s)

    def add(self, labels: Labels, counted: Cell) -> None:
        """What another process of this server counted."""
        self._bounded(labels).merge(counted)

    def _bounded(self, labels: Labels) -> Cell:
        """The cell of labels that were not seen before, once each is one of a bounded set."""
        rule, kind, method, result, status = labels
        known = (rule if rule in self._rules().names else "", kind, among(method, METHODS), result, status)
        return self._cells.setdefault(known, Cell())

    def collect(self) -> Iterator[Metric]:
        """The three metrics, for the Prometheus library."""
        cells = list(self._cells.items())
        yield self._requests_of(cells)
        yield self._sent_of(cells)
        yield self._first_bytes_of(cells)

    def describe(self) -> list[Metric]:
        """Nothing is asked before the first scrape."""
        return []

    def _requests_of(self, cells: list[tuple[Labels, Cell]]) -> Metric:
        labels = ["rule", "kind", "method", "outcome", "status"]
        family = CounterMetricFamily("cistern_requests", "Requests answered", labels=labels)
        for (rule, kind, method, result, status), cell in cells:
            family.add_metric([rule, kind, method, result.value, str(status)], cell.requests)
        return family

    def _sent_of(self, cells: list[tuple[Labels, Cell]]) -> Metric:
        sent: dict[tuple[str, str], int] = {}
        for (rule, _kind, _method, result, _status), cell in cells:
            sent[rule, result.value] = sent.get((rule, result.value), 0) + cell.sent
        family = CounterMetricFamily("cistern_sent_bytes", "Body bytes sent to clients", labels=["rule", "outcome"])
        for names, count in sent.items():
            family.add_metric(names, count)
        return family

    def _first_bytes_of(self, cells: list[tuple[Labels, Cell]]) -> Metric:
        within: dict[tuple[str, str], list[int]] = {}
        seconds: dict[tuple[str, str], float] = {}
        for (_rule, kind, _method, result, _status), cell in cells:
            if any(cell.within):
                names = kind, result.value
                before = within.get(names, [0] * len(cell.within))
                within[names] = [sum(pair) for pair in zip(before, cell.within, strict=True)]
                seconds[names] = seconds.get(names, 0.0) + cell.first_s
        family = HistogramMetricFamily(
            "cistern_first_byte_seconds", "Time to the first byte", labels=["kind", "outcome"]
        )
        for names, counts in within.items():
            upto = 0
            buckets = []
            for bound, count in zip(NAMES, counts, strict=True):
                upto += count
                buckets.append((bound, upto))
            family.add_metric(names, buckets, seconds[names])
        return family
