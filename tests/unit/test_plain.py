"""The two readers of a config file: a quick one for what is usual, a strict one that tells where a fault stands."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.plain import plain
from proxy.config.tree import read_strictly


def readable(text: str) -> object:
    """What the strict reader makes of a text, None if it finds a fault."""
    tree = read_strictly(text, "c.yaml")
    return None if tree.problems else tree.value


WRITTEN = [
    "a: {b: [1, '1', -1, 012, 0, 1.5, true, 'true', yes, null, ~, '', \"x\", 1234567890123456789]}",
    "a:\n  - b: |\n      text\n    c: >-\n      folded\n      text\n  -\n  - [[], {}]",
    "",
    "# nothing\n",
    "---\na: 1\n...\n",
    "a: &x 1\nb: 2",
    "? a\n: b",
    "1: 2\ntrue: 3",
    "<<: {a: 1}",
    "-",
    "- a",
]
REFUSED = [
    "a: -\n",
    "a: 1\na: 2",
    "a: *x",
    "a: &x 1\nb: *x",
    "a: !!str 1",
    "!!map {a: 1}",
    "? [1]\n: 2",
    "? {a: 1}\n: 2",
    "a: 1\n---\nb: 2",
    "a: [",
    "\t",
    "a: " + "[" * 40 + "]" * 40,
    "a: " + "{b: " * 40 + "1" + "}" * 40,
    "a: \x00",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_both_readers_read_the_same(text: str) -> None:
    """The quick one tells no lines, and otherwise exactly what the strict one does."""
    assert plain(text) == (readable(text) if isinstance(readable(text), dict) else None)
    assert isinstance(readable(text), dict) or text.startswith("-")


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_odd_is_left_to_the_strict_reader(text: str) -> None:
    """A duplicate key, an alias, a tag, two documents, no YAML: none of them is taken as it comes."""
    assert plain(text) is None


@settings(max_examples=200)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    ).filter(lambda value: isinstance(value, dict))
)
def test_both_readers_read_what_a_writer_writes(value: object) -> None:
    """Whatever PyYAML writes is read alike, or not at all by the quick one."""
    text = yaml.safe_dump(value, allow_unicode=True)
    found = plain(text)
    assert found is None or found == readable(text)
