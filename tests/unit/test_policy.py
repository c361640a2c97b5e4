"""S3-FIFO: what passes through goes, what is used again stays, and a store of it can be read back."""

import random
from dataclasses import replace
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from proxy.evict.policy import GHOSTS_MIN, Entry, S3Fifo


def filled(*keys: str, size: int = 10) -> "S3Fifo[str]":
    policy: S3Fifo[str] = S3Fifo()
    for key in keys:
        policy.insert(key, size)
    return policy


def order(policy: "S3Fifo[str]") -> list[str]:
    """Every key in the order in which it would go."""
    return list(iter(policy.evict, None))


def test_what_was_never_used_again_goes_in_the_order_it_came() -> None:
    """A queue: first in, first out; and everything goes in the end."""
    policy = filled("a", "b", "c")
    assert order(policy) == ["a", "b", "c"]
    assert policy.bytes == 0
    assert policy.evict() is None


def test_what_was_used_again_outlives_what_was_not() -> None:
    """It moves to the main queue when its turn in the small one comes."""
    policy = filled("hot", "b", "c")
    policy.use("hot")
    assert order(policy) == ["b", "c", "hot"]


def test_the_main_queue_passes_over_what_was_used() -> None:
    """A use buys one round there; three at most are remembered."""
    policy = filled("a", "b")
    for key in "ab":
        policy.use(key)
    policy.insert("c", 10)
    assert policy.evict() == "c"
    for _ in range(100):
        policy.use("a")
    assert order(policy) == ["b", "a"]


def test_a_name_that_comes_back_enters_the_main_queue() -> None:
    """Evicted a moment ago and pulled again: it was not a passer-by."""
    policy = filled("a", "b")
    assert policy.evict() == "a"
    policy.insert("a", 10)
    policy.insert("c", 10)
    assert order(policy) == ["b", "c", "a"]


def test_names_are_forgotten_at_last() -> None:
    """As many as the main queue holds, and a few always."""
    policy: S3Fifo[int] = S3Fifo()
    for key in range(3 * GHOSTS_MIN):
        policy.insert(key, 1)
        policy.evict()
    policy.insert(0, 1)
    policy.insert(3 * GHOSTS_MIN - 1, 1)
    assert [entry.is_main for entry in policy.entries.values()] == [False, True]


def test_what_may_not_go_stays_where_it_is() -> None:
    """The next one goes in its place; when it may, its turn has come."""
    policy = filled("read", "b", "c")
    assert policy.evict(lambda key: key != "read") == "b"
    assert policy.evict(lambda _key: False) is None
    assert order(policy) == ["read", "c"]


def test_the_main_queue_is_not_touched_for_passers_by_that_may_not_go() -> None:
    """A scan that is being pulled right now pushes out nothing that is used again."""
    policy = filled("hot")
    policy.use("hot")
    policy.insert("scan", 10)
    assert policy.evict(lambda key: key != "scan") is None
    assert policy.evict_any(lambda key: key != "scan") == "hot"


def test_uses_are_credited_by_their_count() -> None:
    """What was counted before an image was known, or twice told, is no new use."""
    policy: S3Fifo[str] = S3Fifo()
    policy.insert("a", 10, counted=5)
    policy.insert("b", 10)
    policy.credit("a", 5)
    policy.credit("b", 1)
    policy.credit("b", 1)
    assert order(policy) == ["a", "b"]


def test_a_size_that_changes_moves_nothing() -> None:
    """An image that grows keeps its place."""
    policy = filled("a", "b")
    policy.resize("a", 1000)
    assert policy.bytes == 1010
    assert order(policy) == ["a", "b"]


STEPS = st.lists(st.tuples(st.sampled_from("iuere"), st.integers(0, 12)), max_size=200)


@given(STEPS)
def test_the_books_agree_and_a_copy_goes_on_alike(steps: list[tuple[str, int]]) -> None:
    """Whatever happens: sizes add up, nothing is in two queues, and what is written and read back evicts alike."""
    policy: S3Fifo[int] = S3Fifo()
    written: dict[int, Entry] = {}
    for step, key in steps:
        if step == "i":
            policy.insert(key, key + 1)
        elif step == "u" and key in policy:
            policy.use(key)
        elif step == "r":
            policy.remove(key)
        elif step == "e":
            policy.evict(lambda candidate: candidate % 3 != 0)
        changed, gone = policy.changes()
        for name in gone:
            written.pop(name, None)
        written.update((name, replace(entry)) for name, entry in changed)
        assert policy.bytes == sum(entry.size for entry in policy.entries.values())
        assert sorted(policy.entries) == sorted([*policy._small, *policy._main])
    copy = S3Fifo.restored(written.items())
    assert {name: entry.is_main for name, entry in copy.entries.items()} == {
        name: entry.is_main for name, entry in policy.entries.items()
    }
    assert list(iter(copy.evict, None)) == list(iter(policy.evict, None))


def test_a_scan_passes_through() -> None:
    """Ten times the cache pulled once, while the hot set is in use: of the hot set nearly nothing is lost."""
    rng = random.Random(5)
    policy: S3Fifo[int] = S3Fifo()
    hot, capacity = 80, 100
    hits = {"before": 0, "scan": 0}
    scan = iter(range(1000, 1000 + 10 * capacity))

    def pull(key: int) -> bool:
        if key in policy:
            policy.use(key)
            return True
        policy.insert(key, 1)
        while policy.bytes > capacity:
            policy.evict()
        return False

    for _ in range(2000):
        pull(rng.randrange(hot))
    for _ in range(1000):
        hits["before"] += pull(rng.randrange(hot))
    for _ in range(1000):
        for key in islice(scan, 1):
            pull(key)
        hits["scan"] += pull(rng.randrange(hot))
    assert hits["before"] == 1000
    assert hits["scan"] > 0.9 * hits["before"]
