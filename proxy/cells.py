"""What is counted of requests under one set of labels: plain numbers, since this stands on the way of every request."""

from bisect import bisect_left
from typing import Final

from proxy.outcome import Result

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds
NAMES: Final = (*map(str, BUCKETS), "+Inf")
Labels = tuple[str, str, str, Result, int]  # rule, kind, method, outcome, status


class Cell:
    """What was counted under one set of labels. `within[n]` are first bytes within `BUCKETS[n]` and not sooner, the
    last those after every bound.
    """

    __slots__ = ("first_s", "requests", "sent", "within")

    def __init__(self) -> None:
        self.requests = 0
        self.sent = 0
        self.within = [0] * (len(BUCKETS) + 1)
        self.first_s = 0.0

    def add(self, sent: int, first_s: float | None) -> None:
        """One request; `first_s` is None if no byte of an answer left."""
        self.requests += 1
        self.sent += sent
        if first_s is not None:
            self.within[bisect_left(BUCKETS, first_s)] += 1
            self.first_s += first_s

    def merge(self, other: "Cell") -> None:
        """Take over what another one counted."""
        self.requests += other.requests
        self.sent += other.sent
        self.first_s += other.first_s
        self.within = [sum(pair) for pair in zip(self.within, other.within, strict=True)]
