"""The last few megabytes of a body that is not kept, in memory, with the hash as it stood after each piece.

A reader that the ring has left behind can go on by itself from where it stands: the hash that the last piece it took
left behind is its start. Pure.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, Self

RING: Final = 4 << 20  # bytes
RINGS: Final = 256 << 20  # bytes of all rings together: many transfers at once get smaller ones
RING_MIN: Final = 256 << 10  # enough for what is held back at the end, and a little to go on


def ring_size(rings: int) -> int:
    """How many bytes each of so many rings may hold."""
    return max(RING_MIN, min(RING, RINGS // max(1, rings)))


class Hasher(Protocol):
    """A hashlib hash."""

    def update(self, data: bytes, /) -> None: ...

    def copy(self) -> Self: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes from `start` on, and the hash of everything up to their end."""

    start: int
    data: bytes
    after: Hasher

    @property
    def stop(self) -> int:
        return self.start + len(self.data)


class Ring:
    """Pieces without a gap from `start` to `stop`. `begin` is where it began; `is_whole` while nothing is dropped."""

    def __init__(self, begin: int, size: Callable[[], int] = lambda: RING) -> None:
        self.begin = self.stop = begin
        self._size = size
        self.pieces: deque[Piece] = deque()

    @property
    def start(self) -> int:
        return self.pieces[0].start if self.pieces else self.stop

    @property
    def is_whole(self) -> bool:
        return self.start == self.begin

    @property
    def most(self) -> int:
        """How many bytes it may hold by now."""
        return self._size()

    @property
    def is_full(self) -> bool:
        return self.stop - self.start >= self.most

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.stop = piece.stop

    def drop(self) -> None:
        """Give up the oldest piece."""
        self.pieces.popleft()

    def piece(self, offset: int) -> Piece:
        """The piece that holds a byte between `start` and `stop`."""
        return next(piece for piece in reversed(self.pieces) if piece.start <= offset)
