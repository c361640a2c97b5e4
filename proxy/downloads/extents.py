"""Which bytes of a growing file are there: a set of byte numbers, kept as ordered runs that do not touch. Pure."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from proxy.oci import Span


class Extents:
    """Runs of bytes; few of them, since neighbours melt into one. `is_mapped`: a map beside the file tells of them."""

    __slots__ = ("_starts", "_stops", "is_mapped")

    def __init__(self, stop: int = 0) -> None:
        """The first `stop` bytes."""
        self._starts = [0] if stop else []
        self._stops = [stop] if stop else []
        self.is_mapped = False

    def __iter__(self) -> Iterator[Span]:
        return map(Span, self._starts, self._stops)

    def copy(self) -> "Extents":
        twin = Extents()
        twin._starts, twin._stops = self._starts.copy(), self._stops.copy()
        return twin

    @property
    def frontier(self) -> int:
        """How many bytes are there from the start without a hole."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    @property
    def stop(self) -> int:
        """Where the last run ends."""
        return self._stops[-1] if self._stops else 0

    @property
    def total(self) -> int:
        """How many bytes are there in all."""
        return sum(self._stops) - sum(self._starts)

    def end_of(self, offset: int) -> int:
        """Where the run that holds `offset` ends; `offset` itself if that byte is not there."""
        at = bisect_right(self._starts, offset) - 1
        return max(offset, self._stops[at]) if at >= 0 else offset

    def add(self, start: int, stop: int) -> None:
        """The bytes from `start` up to `stop` are there now."""
        if start >= stop:
            return
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        if first < last:  # runs that it overlaps or touches
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self._starts[first:last], self._stops[first:last] = [start], [stop]

    def keep(self, length: int) -> None:
        """Nothing from `length` on is there any more."""
        runs = [(span.start, min(span.stop, length)) for span in self if span.start < length]
        self._starts, self._stops = [start for start, _ in runs], [stop for _, stop in runs]

    def holes(self, stop: int, start: int = 0) -> Iterator[Span]:
        """The runs that are not there between `start` and `stop`."""
        place = start
        for span in self:
            if span.stop <= place:
                continue
            if span.start >= stop:
                break
            if span.start > place:
                yield Span(place, span.start)
            place = span.stop
        if place < stop:
            yield Span(place, stop)
