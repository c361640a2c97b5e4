"""Who has which bytes in hand: no byte twice, none forgotten, few hands hang up."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from proxy.downloads.extents import Extents
from proxy.downloads.pieces import CUTS, MIB, PIECE, PIECE_MAX, Claim, Pieces, piece_length
from proxy.oci import Span


@dataclass
class World:
    """A blob of `size` bytes of which `here` are written."""

    size: int
    here: Extents = field(default_factory=Extents)

    def pieces(self) -> Pieces:
        pieces = Pieces(lambda: self.here)
        pieces.size = self.size
        return pieces

    def bring(self, claim: Claim, count: int) -> None:
        """The next `count` bytes of a claim come and are written."""
        end = min(claim.at + count, self.size if claim.stop is None else claim.stop)
        self.here.add(claim.at, end)
        claim.at = end


def test_one_hand_asks_for_everything() -> None:
    """Before the size is known, and with no help, one open-ended request brings the blob."""
    world = World(20 * PIECE)
    pieces = world.pieces()
    pieces.size = None
    claim = pieces.first(alone=True)
    assert claim is not None
    assert (claim.at, claim.stop, claim.open_ended) == (0, None, True)
    assert pieces.next_piece() is None
    pieces.size = claim.stop = world.size
    assert list(pieces.free()) == []
    world.bring(claim, world.size)
    pieces.end(claim)
    assert pieces.first(alone=True) is None


def test_what_was_kept_behind_a_hole_is_not_asked_for() -> None:
    """Before the size is known the first answer ends where the kept bytes begin, and is asked for no further."""
    world = World(20 * PIECE)
    world.here.add(0, 1000)
    world.here.add(PIECE, 2 * PIECE)
    pieces = world.pieces()
    pieces.size = None
    claim = pieces.first(alone=True)
    assert claim is not None
    assert (claim.at, claim.stop, claim.open_ended) == (1000, PIECE, False)
    pieces.size = world.size
    assert list(pieces.free()) == [Span(2 * PIECE, world.size)]


def test_an_answer_that_goes_on_brings_the_next_free_bytes() -> None:
    """From where it stands: past what is here and what others have in hand; what lies before it is left."""
    world = World(20 * PIECE)
    world.here.add(2 * PIECE, 3 * PIECE)
    pieces = world.pieces()
    claim, other = pieces.first(alone=False), pieces.next_piece()
    assert claim is not None
    assert other is not None
    assert (claim.stop, other.at, other.stop) == (PIECE, PIECE, 2 * PIECE)
    world.bring(claim, PIECE)
    assert pieces.follow(claim, claim.at)
    assert (claim.start, claim.at, claim.stop) == (3 * PIECE, 3 * PIECE, world.size)
    assert list(pieces.free()) == []
    world.bring(claim, world.size)
    pieces.end(other)
    assert not pieces.follow(claim, claim.at)
    assert list(pieces.free()) == [Span(PIECE, 2 * PIECE)]


def test_an_answer_of_unknown_size_goes_on_to_its_end() -> None:
    """Hole by hole, and behind the last byte that is here to wherever it ends."""
    world = World(20 * PIECE)
    world.here.add(PIECE, 2 * PIECE)
    world.here.add(3 * PIECE, 4 * PIECE)
    pieces = world.pieces()
    pieces.size = None
    claim = pieces.first(alone=True)
    assert claim is not None
    assert (claim.at, claim.stop) == (0, PIECE)
    world.bring(claim, PIECE)
    assert pieces.follow(claim, claim.at)
    assert (claim.at, claim.stop) == (2 * PIECE, 3 * PIECE)
    world.bring(claim, PIECE)
    assert pieces.follow(claim, claim.at)
    assert (claim.at, claim.stop) == (4 * PIECE, None)


def test_the_first_helper_takes_the_piece_behind_the_next() -> None:
    """What one hand was to bring is cut once; the others then take free pieces, in order, and the first one too."""
    world = World(20 * PIECE)
    pieces = world.pieces()
    first = pieces.first(alone=True)
    assert first is not None
    world.bring(first, 3 * MIB + 5)
    helper, second = pieces.next_piece(), pieces.next_piece()
    assert helper is not None
    assert second is not None
    assert (first.stop, first.is_cut, helper.at) == (PIECE + 4 * MIB, True, PIECE + 4 * MIB)
    assert (helper.stop, second.at, second.stop) == (second.at, helper.at + PIECE, second.at + PIECE)
    assert not helper.is_cut
    world.bring(first, PIECE * 2)
    pieces.end(first)
    again = pieces.first(alone=False)
    assert again is not None
    assert (again.at, again.stop, again.open_ended) == (second.stop, second.at + 2 * PIECE, False)


def test_what_came_and_is_not_written_is_asked_for_by_nobody() -> None:
    """Bytes between the last write and the next one to come are in hand, not free."""
    world = World(20 * PIECE)
    pieces = world.pieces()
    claim = pieces.first(alone=False)
    assert claim is not None
    claim.at += 5 * MIB
    assert list(pieces.free()) == [Span(PIECE, world.size)]


def test_what_is_given_back_is_free_again() -> None:
    """A hand that fails keeps what it brought and gives back the rest."""
    world = World(4 * PIECE)
    pieces = world.pieces()
    claim = pieces.first(alone=False)
    assert claim is not None
    world.bring(claim, 1000)
    pieces.end(claim)
    assert list(pieces.free()) == [Span(1000, world.size)]


def test_a_reader_far_ahead_comes_first() -> None:
    """Its piece begins where it waits; the hand that would have been there ends before it."""
    world = World(40 * PIECE)
    pieces = world.pieces()
    first = pieces.first(alone=True)
    assert first is not None
    offset = 30 * PIECE + 100_000
    assert pieces.is_far(offset, 0)
    claim = pieces.piece_at(offset)
    assert claim is not None
    assert (claim.at, claim.stop) == (30 * PIECE + 65536, 31 * PIECE + 65536)
    assert (first.stop, first.is_cut) == (claim.at, True)
    assert not pieces.is_far(offset, 0)
    assert list(pieces.free()) == [Span(claim.stop or 0, world.size)]


@pytest.mark.parametrize(
    ("offset", "soon", "far"),
    [
        pytest.param(0, 0, False, id="in hand"),
        pytest.param(2 * PIECE - 1, 0, False, id="near"),
        pytest.param(2 * PIECE, 0, True, id="far"),
        pytest.param(10 * PIECE, 11 * PIECE, False, id="there soon"),
        pytest.param(40 * PIECE, 0, False, id="behind the end"),
    ],
)
def test_what_is_far(offset: int, soon: int, far: bool) -> None:
    """Two pieces before a hand, or what it brings in a while, is near."""
    pieces = World(40 * PIECE).pieces()
    pieces.first(alone=True)
    assert pieces.is_far(offset, soon) is far


def test_few_hands_are_made_to_hang_up() -> None:
    """What is on its way is lost when a hand hangs up: it happens at most CUTS times."""
    world = World(100 * PIECE)
    pieces = world.pieces()
    pieces.first(alone=True)
    got = [pieces.piece_at(offset * PIECE) for offset in (90, 60, 30)]
    assert sum(claim is not None for claim in got) == CUTS


@pytest.mark.parametrize("size", [0, 1, PIECE, 2 * PIECE - 1])
def test_a_small_blob_is_in_one_hand(size: int) -> None:
    """Less than two pieces are not worth a second connection."""
    pieces = World(size).pieces()
    pieces.first(alone=True)
    assert pieces.next_piece() is None


def test_pieces_grow_with_the_blob() -> None:
    """8 MiB up to a GiB, then about 128 pieces, and never more than 64 MiB."""
    assert [piece_length(size << 20) for size in (1, 1024, 2048, 100_000)] == [PIECE, PIECE, 2 * PIECE, PIECE_MAX]


@pytest.mark.parametrize("seed", range(40))
def test_every_byte_is_asked_for_exactly_once(seed: int) -> None:
    """Whatever hands come, bring, fail and go: no byte is claimed that is here or in hand, and all come in the end."""
    rng = random.Random(seed)
    world = World(rng.choice((1, PIECE + 1, 5 * PIECE + 77, 40 * PIECE + 3)))
    hands: list[Claim] = []
    pieces, brought = world.pieces(), 0
    while True:
        if not hands or rng.random() < 0.3:
            if not hands:
                claim = pieces.first(alone=rng.random() < 0.5)
            else:
                claim = pieces.next_piece() if rng.random() < 0.7 else pieces.piece_at(rng.randrange(world.size))
            if claim is None and not hands:
                break
            if claim is not None:
                assert claim.at == claim.start < (claim.stop or 0) <= world.size
                assert world.here.end_of(claim.at) == claim.at
                hands.append(claim)
        hand = rng.choice(hands)
        before = hand.at
        world.bring(hand, rng.randrange(1, 2 * PIECE))
        brought += hand.at - before
        spans = sorted((claim.start, claim.stop or 0) for claim in hands)
        assert all(left[1] <= right[0] for left, right in pairwise(spans))
        if hand.at == hand.stop or rng.random() < 0.1:
            hands.remove(hand)
            pieces.end(hand)
    assert world.here.frontier == brought == world.size
