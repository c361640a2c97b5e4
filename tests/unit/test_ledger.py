"""The book of blocks: what is taken, what is promised, and counts that a change overtook."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger import Ledger, blocks_for

MIB = 1 << 20


@given(st.integers(0, 1 << 40))
def test_a_file_never_takes_more_than_was_reckoned(size: int) -> None:
    """The last block is whole, and the map of its extents has room; a large file costs hardly more than it is long."""
    assert size < blocks_for(size) <= size + 3 * 4096 + size // 4096
    assert blocks_for(size) >= -(-size // 4096) * 4096


def test_what_is_taken_and_what_is_promised() -> None:
    """A claim counts whole from the start, and what it has written is taken; released, it counts no more."""
    ledger = Ledger()
    with ledger.changing("sha256/ab") as change:
        change.took(8192, 4096)
    claim = ledger.claim(MIB)
    claim.written = 1000
    assert (ledger.taken, ledger.committed, ledger.reserved) == (13288, 12288 + MIB, MIB - 1000)
    claim.written = MIB + 5
    assert (ledger.committed, ledger.reserved) == (12288 + MIB + 5, 0)
    claim.release()
    claim.release()
    assert ledger.taken == ledger.committed == 12288
    ledger.ahead = 100
    assert (ledger.taken, ledger.committed) == (12288, 12388)


def test_kept_parts_and_what_lingers_count() -> None:
    """Parts that nobody fills, deleted files that are read, and what stands beside take their room."""
    ledger = Ledger()
    ledger.keep_parts({"a.part": 4096, "b.part": 8192})
    ledger.lingering, ledger.beside = 100, 10
    assert (ledger.parts, ledger.taken) == (12288, 12398)


def test_a_count_that_a_change_overtook_is_thrown_away() -> None:
    """A folder that changes, or has changed, while it is counted keeps what the book says."""
    ledger = Ledger()
    at = ledger.folder("sha256/ab").changes
    with ledger.changing("sha256/ab") as change:
        assert not ledger.count("sha256/ab", at, 1, 1)
        change.took(4096, 4096)
    assert not ledger.count("sha256/ab", at, 1, 1)
    assert ledger.taken == 8192
    assert ledger.count("sha256/ab", ledger.folder("sha256/ab").changes, 12288, 4096)
    assert ledger.taken == 16384
    assert ledger.folder("sha256/ab").counted


def test_a_change_that_fails_is_counted_again() -> None:
    """Nobody knows what a failed or abandoned change did: the folder is no longer counted."""
    ledger = Ledger()
    assert ledger.count("sha256/ab", 0, 4096, 4096)
    with pytest.raises(OSError, match="full"), ledger.changing("sha256/ab"):
        raise OSError("full")
    assert not ledger.folder("sha256/ab").counted
    assert ledger.taken == 8192
