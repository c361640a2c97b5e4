"""The ring of a body that is not kept: what it holds, what it drops, and how much all rings take together."""

import hashlib

import pytest

from proxy.downloads.ring import RING, RING_MIN, RINGS, Piece, Ring, ring_size


def piece(start: int, data: bytes) -> Piece:
    return Piece(start, data, hashlib.sha256())


def test_pieces_follow_one_another_and_the_oldest_goes_first() -> None:
    """What stands between `start` and `stop` can be found; it is whole until something was dropped."""
    ring = Ring(100, lambda: 6)
    assert (ring.start, ring.stop, ring.is_whole, ring.is_full) == (100, 100, True, False)
    ring.add(piece(100, b"abc"))
    ring.add(piece(103, b"def"))
    assert ring.is_full
    assert [ring.piece(at).data for at in (100, 102, 103, 105)] == [b"abc", b"abc", b"def", b"def"]
    ring.drop()
    assert (ring.start, ring.stop, ring.is_whole, ring.is_full) == (103, 106, False, False)


@pytest.mark.parametrize("rings", [0, 1, 64, 65, 1000, 100_000])
def test_many_rings_are_small(rings: int) -> None:
    """Together they stay within what was set aside, as long as each can hold what is held back at the end."""
    size = ring_size(rings)
    assert RING_MIN <= size <= RING
    assert rings * size <= RINGS or size == RING_MIN
