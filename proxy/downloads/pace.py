"""How many connections bring a blob sooner: measured, one step at a time. Pure.

Storage and CDNs often limit each connection (S3: 85 to 90 MB/s). More connections help there; at an upstream that is
limited in all they only take from one another, so a number is kept only if the sum rose by a good part of what it could
have. A window in which some hand had to ask anew says little: it takes two to give a number up.
"""

from typing import Final

WINDOW_S: Final = 0.25
FAST: Final = 100_000_000  # bytes a second; one connection that brings this is not held back by itself
GAIN: Final = 0.4
DOUBTS: Final = 2


class Pace:
    """The number of connections for one transfer. `known`: what was found at this upstream lately."""

    def __init__(self, most: int, known: int | None = None) -> None:
        self.wanted = 1
        self.settled = most <= 1
        self._most = most
        self._known = known
        self._doubts = 0
        self._tried: tuple[int, float] | None = None  # the last number that helped, and its bytes a second
        self._hands = 0
        self._since = 0.0
        self._base = 0

    @property
    def has_tried(self) -> bool:
        """Whether what it settled on was found by trying: one fast transfer tells nothing of the next."""
        return self._tried is not None

    def note(self, now: float, received: int, hands: int) -> int:
        """`hands` connections are bringing bytes, `received` in all so far; how many there should be."""
        if self.settled:
            return self.wanted
        if hands != self._hands:  # a sum counts only while nobody came or went
            self._hands, self._since, self._base = hands, now, received
        elif now - self._since >= WINDOW_S and hands == self.wanted:
            self._judge(hands, (received - self._base) / (now - self._since))
            self._since, self._base = now, received
        return self.wanted

    def settle(self, hands: int) -> None:
        """No more than this from now on."""
        self.wanted, self.settled = max(1, hands), True

    def _judge(self, hands: int, rate: float) -> None:
        if self._tried is None:
            if rate >= FAST or self._known == 1:
                self.settle(1)
                return
            self._tried, self.wanted = (1, rate), min(self._known or 2, self._most)
            return
        before, former = self._tried
        self._doubts = self._doubts + 1 if rate < former * (1 + GAIN * (hands / before - 1)) else 0
        if self._doubts == DOUBTS:
            self.settle(before)
        elif self._doubts:
            return
        elif hands >= self._most:
            self.settle(hands)
        else:
            self._tried, self.wanted = (hands, rate), min(2 * hands, self._most)


class Lessons:
    """What was found lately, by upstream: how many connections help there, and whether it knows no ranges."""

    KEPT_S: Final = 300.0

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, float]] = {}  # at most one for each configured upstream
        self._whole: dict[str, float] = {}  # until when; likewise

    def recall(self, upstream: str, now: float) -> int | None:
        hands, until = self._found.get(upstream, (0, 0.0))
        return hands if now < until else None

    def learn(self, upstream: str, hands: int, now: float, kept_s: float = KEPT_S) -> None:
        self._found[upstream] = (hands, now + kept_s)

    def gives_whole(self, upstream: str, now: float) -> bool:
        """Whether its answers begin at zero: who hangs up there pays for all of it again."""
        return now < self._whole.get(upstream, 0.0)

    def learn_whole(self, upstream: str, now: float) -> None:
        self._whole[upstream] = now + self.KEPT_S
