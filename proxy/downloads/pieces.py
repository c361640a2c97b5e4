"""Which bytes of a blob are still to be asked for, and who has which of them in hand. Pure.

Invariant: no byte is in two hands, nor asked for once it is here: an upstream sends no byte twice, and nothing that was
read or hashed is ever written over.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from proxy.downloads.extents import Extents
from proxy.oci import Span

MIB: Final = 1 << 20
PIECE: Final = 8 * MIB
PIECE_MAX: Final = 64 * MIB
PIECES: Final = 128  # about so many requests for a blob of more than a GiB, each with its redirect
FAR: Final = 2  # pieces before a hand: a reader there waits for it in any case
ALIGNED: Final = 64 << 10
# Who must hang up in mid-answer loses what is on its way, 4 to 7 MiB each time (measured): so many times at most, since
# no blob may cost its upstream more than 8 MiB beyond its size.
CUTS: Final = 1


@dataclass(slots=True, eq=False)
class Claim:
    """Bytes in one hand, from `start` on: `at` is the next one to come, `stop` where it must end (None: the size is not
    known yet). What came is in this hand until it is written, which is before its end.
    """

    at: int
    stop: int | None
    open_ended: bool = False  # asked for to the blob's end
    is_cut: bool = False  # its end was given away since: its hand hangs up there
    start: int = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.at


def piece_length(size: int) -> int:
    return min(PIECE_MAX, max(PIECE, -(-size // PIECES // MIB) * MIB))


class Pieces:
    """The claims on one blob. `here` tells what has been written."""

    def __init__(self, here: Callable[[], Extents]) -> None:
        self.size: int | None = None
        self._here = here
        self._claims: list[Claim] = []
        self._cuts = CUTS

    @property
    def received(self) -> int:
        """How many bytes have come so far, written or still in hand."""
        here = self._here()
        return here.total + sum(max(0, claim.at - here.end_of(claim.start)) for claim in self._claims)

    def free(self) -> Iterator[Span]:
        """What nobody has in hand and is not here, in order; nothing while the size is not known."""
        if self.size is None:
            return
        for hole in self._here().holes(self.size):
            place = hole.start
            for claim in sorted(self._claims, key=lambda claim: claim.start):
                stop = self.size if claim.stop is None else claim.stop
                if stop <= place or claim.start >= hole.stop:
                    continue
                if claim.start > place:
                    yield Span(place, claim.start)
                place = max(place, stop)
            if place < hole.stop:
                yield Span(place, hole.stop)

    def first(self, *, alone: bool) -> Claim | None:
        """For the hand that sees to the whole: the first free bytes; `alone` to their end, else a piece of them."""
        if self.size is None:
            # What an ended process left behind a hole bounds the first answer too: it is never written over.
            here = self._here()
            hole = next(here.holes(here.stop), None)
            stop = None if hole is None else hole.stop
            return self._enter(Claim(here.frontier, stop, open_ended=stop is None))
        for span in self.free():
            stop = span.stop if alone else min(span.stop, span.start + piece_length(self.size))
            return self._enter(Claim(span.start, stop, open_ended=stop == self.size))
        return None

    def follow(self, claim: Claim, offset: int, *, until: int | None = None, only_next: bool = False) -> bool:
        """For a hand that is done with its claim and whose answer goes on at `offset`, to `until` at most: let it have
        the next free bytes from there on in the same claim, or those at `offset` only; False if there are none.
        """
        if self.size is None:
            here = self._here()
            hole = next(here.holes(here.stop, offset), None)
            start, stop = (max(offset, here.stop), None) if hole is None else (hole.start, hole.stop)
        else:
            span = next((span for span in self.free() if span.stop > offset), None)
            if span is None:
                return False
            start, stop = max(offset, span.start), span.stop
        if until is not None:
            stop = until if stop is None else min(stop, until)
        if (only_next and start != offset) or (stop is not None and stop <= start):
            return False
        claim.start = claim.at = start
        claim.stop, claim.is_cut = stop, False
        return True

    def next_piece(self) -> Claim | None:
        """For a helping hand: the first free piece, else one cut from another's."""
        if self.size is None:
            return None
        length = piece_length(self.size)
        for span in self.free():
            return self._enter(Claim(span.start, min(span.stop, span.start + length)))
        return self._cut(lambda at: -(-(at + length) // MIB) * MIB, length)

    def is_far(self, offset: int, soon: int) -> bool:
        """Whether no hand will be at `offset` soon, which is within its next `soon` bytes or few pieces."""
        if self.size is None or offset >= self.size:
            return False
        reach = max(soon, FAR * piece_length(self.size))
        return all(not claim.at - ALIGNED <= offset < claim.at + reach for claim in self._claims)

    def end(self, claim: Claim) -> None:
        """Its hand is done with it, or gives back what is left of it."""
        self._claims.remove(claim)

    def _enter(self, claim: Claim) -> Claim:
        self._claims.append(claim)
        return claim

    def piece_at(self, offset: int) -> Claim | None:
        """For a helping hand: the piece that a reader waits for at `offset`, if it can be had."""
        if self.size is None:
            return None
        length = piece_length(self.size)
        for span in self.free():
            if span.start <= offset < span.stop:
                start = max(span.start, offset // ALIGNED * ALIGNED)
                return self._enter(Claim(start, min(span.stop, start + length)))
        return self._cut(lambda at: offset // ALIGNED * ALIGNED, length, holding=offset)

    def _cut(self, place: Callable[[int], int], length: int, holding: int | None = None) -> Claim | None:
        """A piece out of the claim with the longest rest (or the one `holding` a byte), which then ends before it."""
        if self.size is None or not self._cuts:
            return None
        ends = {id(claim): self.size if claim.stop is None else claim.stop for claim in self._claims}
        choice = [claim for claim in self._claims if holding is None or claim.at <= holding < ends[id(claim)]]
        victim = max(choice, key=lambda claim: ends[id(claim)] - claim.at, default=None)
        if victim is None:
            return None
        start, stop = place(victim.at), ends[id(victim)]
        if start < victim.at + length or start >= stop or (holding is None and stop - start < length):
            return None
        self._cuts -= 1
        victim.stop, victim.is_cut = start, True
        return self._enter(Claim(start, min(stop, start + length)))
