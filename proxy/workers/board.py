"""One number that all processes of a server see at once: it grows when anything that was answered may not stand.

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

    def bump(self) -> None:
        """Nothing that was answered so far is given again without asking. The engine's alone."""
        self._page[0] += 1
