"""A clock that a test turns by hand: pass it wherever a room takes `clock: Callable[[], float]`."""


class Clock:
    """`clock()` is the time in seconds; it stands still until `advance`. It starts at a plausible Unix time."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Turn the clock on by `seconds`; a negative number turns it back, as NTP may."""
        self._now += seconds
