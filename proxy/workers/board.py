"""What all processes of a server see at once: a number that grows when anything that was answered may not stand, and
how long a drain may take by now, for the parent, whom nobody sends a message.

A page of memory shared by inheritance. The engine alone writes; a serving process compares with the number that its
answer was given at, so no answer outlives a change by the time that a message takes.
"""

import mmap
from typing import Final

PAGE: Final = mmap.PAGESIZE


class Board:
    """Made before the processes part; `changes` is read without any call."""

    def __init__(self) -> None:
        self._page = memoryview(mmap.mmap(-1, PAGE)).cast("Q")

    @property
    def changes(self) -> int:
        return self._page[0]

    @property
    def drain_s(self) -> float:
        """`registry.drain` as the configuration that is in force has it."""
        return self._page[1] / 1000

    @drain_s.setter
    def drain_s(self, seconds: float) -> None:
        self._page[1] = round(seconds * 1000)

    def bump(self) -> None:
        """Nothing that was answered so far is given again without asking. The engine's alone."""
        self._page[0] += 1
