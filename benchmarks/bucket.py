"""A token bucket for bandwidth, shared by all connections: it says how long to wait, and waits for nobody itself."""


class TokenBucket:
    """At most `rate` bytes per second, none meaning no limit, and at most `burst` bytes at once after a pause.

    Sends are queued on one line of time, first come first served: so many connections share the rate fairly.
    """

    def __init__(self, rate: float | None, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._free_at = float("-inf")  # when everything reserved so far has been sent

    def reserve(self, size: int, now: float) -> float:
        """Take `size` bytes; returns the seconds to wait before they are sent."""
        if self._rate is None:
            return 0.0
        # A pause saves up at most one burst: a timer that fires late is made up for, an idle hour is not.
        start = max(self._free_at, now - self._burst / self._rate)
        self._free_at = start + size / self._rate
        return max(0.0, self._free_at - now)
