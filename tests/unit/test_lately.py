"""What was asked for lately: bounded by weight, and what is in use stays."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.lately import Lately


def test_what_is_asked_for_stays() -> None:
    """A thousand passers-by do not push out what is asked for in between."""
    lately: Lately[int, str] = Lately(10)
    lately.put(0, "kept")
    for number in range(1, 1000):
        lately.put(number, "passing")
        assert lately.get(0) == "kept"
    assert lately.get(1) is None


def test_the_newest_value_of_a_key_counts() -> None:
    """A value put again replaces the old generation's too, and a forgotten one is gone from both."""
    lately: Lately[str, int] = Lately(2)
    lately.put("a", 1)
    lately.put("b", 1)
    lately.put("c", 1)  # turns over
    lately.put("a", 2)
    assert lately.get("a") == 2
    lately.forget("a")
    assert lately.get("a") is None


def test_all_can_be_forgotten() -> None:
    """Both generations, and what they weighed."""
    lately: Lately[str, int] = Lately(2)
    for name in "abc":
        lately.put(name, 1)
    lately.clear()
    assert [lately.get(name) for name in "abc"] == [None, None, None]
    lately.put("a", 1)
    lately.put("b", 1)
    assert len(lately) == 2


def test_what_is_too_heavy_is_not_taken() -> None:
    """One value above a whole generation is refused and changes nothing."""
    lately: Lately[str, bytes] = Lately(10, len)
    lately.put("small", b"x")
    lately.put("large", b"x" * 11)
    assert lately.get("large") is None
    assert lately.get("small") == b"x"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 12)), max_size=200))
def test_the_bound_holds_whatever_happens(steps: list[tuple[bool, int, int]]) -> None:
    """No sequence of puts and looks holds more than two generations, and a found value is the last one put."""
    lately: Lately[int, int] = Lately(10, lambda weight: weight)
    last: dict[int, int] = {}
    for is_put, key, weight in steps:
        if is_put and weight <= 10:
            lately.put(key, weight)
            last[key] = weight
        found = lately.get(key)
        assert found is None or found == last[key]
        assert sum(lately._young.values()) <= 10
        assert sum(lately._old.values()) <= 10
        assert len(lately) == len(lately._young.keys() | lately._old.keys())
