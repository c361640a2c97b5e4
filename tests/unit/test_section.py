"""Sections: a map read by the annotations of a class, every problem told at once and in its place."""

import enum
from typing import Annotated, Any, Literal

import pytest

from proxy.config.section import Before, Filled, Read, Section, SectionRefused, key


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def positive(value: Any) -> int:
    if not isinstance(value, int) or value <= 0:
        raise ValueError("must be a number over 0")
    return value


Positive = Annotated[int, Read(positive)]
Text = Annotated[str, Read(str.strip)]


class Inner(Section):
    """Two keys that cannot be equal; nothing of it may be the word `never`."""

    first_s: Positive = key(1, alias="first")
    second: Positive | None = None

    @classmethod
    def refused(cls, value: object) -> str | None:
        return "never" if value == "never" else None

    def contradiction(self) -> str | None:
        return "both are the same" if self.first_s == self.second else None


class Outer(Section):
    name: Text
    inner: Inner = Inner()
    maybe: Inner | None = None
    many: tuple[Inner, ...] = ()
    filled: Annotated[tuple[Positive, ...], Filled()] = (1,)
    named: Annotated[dict[Text, Inner], Before(lambda value: {} if value is None else value)] = key({})
    colours: frozenset[Colour] = frozenset()
    mode: Literal["on", "off", "auto"] = "auto"


def problems_of(value: object) -> list[tuple[str, str]]:
    with pytest.raises(SectionRefused) as refused:
        Outer.parse(value)
    return [(".".join(map(str, loc)), reason) for loc, reason in refused.value.problems]


def test_what_is_given_is_read_and_the_rest_is_the_default() -> None:
    """Names in the file and attributes may differ; an empty section is one of defaults."""
    found = Outer.parse(
        {
            "name": " x ",
            "inner": {"first": 5},
            "maybe": None,
            "many": [{"second": 7}, None],
            "named": {" a ": {}},
            "colours": ["red", "red"],
            "mode": "on",
        }
    )
    assert (found.name, found.inner.first_s, found.inner.second, found.maybe) == ("x", 5, None, None)
    assert found.many == (Inner(second=7), Inner())
    assert (found.named, found.mode) == ({"a": Inner()}, "on")
    assert found.colours == frozenset({Colour.RED})
    assert found.inner.given == {"first_s"}
    assert Outer.parse({"name": "x", "named": None}).named == {}


REFUSED: dict[str, tuple[object, list[tuple[str, str]]]] = {
    "no map": ([], [("", "must be a map of keys")]),
    "nothing": (None, [("name", "is missing")]),
    "unknown": ({"name": "x", "inner": {"frist": 1}}, [("inner.frist", "unknown key, did you mean first?")]),
    "far from any": ({"name": "x", "zzz": 1}, [("zzz", "unknown key")]),
    "a key that is no text": ({"name": "x", 5: 1}, [("5", "unknown key")]),
    "its attribute's name": (
        {"name": "x", "inner": {"first_s": 1}},
        [("inner.first_s", "unknown key, did you mean first?")],
    ),
    "a value": ({"name": "x", "inner": {"first": 0}}, [("inner.first", "must be a number over 0")]),
    "an item": ({"name": "x", "filled": [1, 0]}, [("filled.1", "must be a number over 0")]),
    "no list": ({"name": "x", "many": "ab"}, [("many", "must be a list")]),
    "an empty list": ({"name": "x", "filled": []}, [("filled", "must not be empty")]),
    "no words": ({"name": "x", "mode": "maybe"}, [("mode", "must be 'on', 'off' or 'auto'")]),
    "no member": ({"name": "x", "colours": [{}]}, [("colours.0", "must be 'red' or 'blue'")]),
    "no map of maps": ({"name": "x", "named": [1]}, [("named", "must be a map of keys")]),
    "refused whole": ({"name": "x", "inner": "never"}, [("inner", "never")]),
    "a contradiction": ({"name": "x", "maybe": {"first": 2, "second": 2}}, [("maybe", "both are the same")]),
    "several": (
        {"inner": {"first": 0, "second": -1}, "many": [{"x": 1}]},
        [
            ("inner.first", "must be a number over 0"),
            ("inner.second", "must be a number over 0"),
            ("many.0.x", "unknown key"),
            ("name", "is missing"),
        ],
    ),
}


@pytest.mark.parametrize(("value", "problems"), REFUSED.values(), ids=REFUSED)
def test_every_problem_is_told_in_its_place(value: object, problems: list[tuple[str, str]]) -> None:
    """And a section is looked at as a whole only where each of its keys is good."""
    assert problems_of(value) == problems


def test_a_section_is_a_value() -> None:
    """Equal by what it says, whether that was given or not; it does not change, and another is made of it."""
    plain, said = Inner(), Inner(first_s=1)
    assert plain == said
    assert hash(plain) == hash(said)
    assert plain != Inner(first_s=2)
    assert plain != "Inner()"
    assert said.replaced(second=3) == Inner(first_s=1, second=3)
    assert repr(said) == "Inner(first_s=1)"
    with pytest.raises(AttributeError, match="frozen"):
        said.first_s = 4
    assert Outer.parse({"name": "x", "inner": said}).inner is said


def test_its_keys_can_be_listed() -> None:
    """With the name that each has in the file, and whether it must be there."""
    assert [(one.name, one.alias, one.is_required) for one in Inner.fields().values()] == [
        ("first_s", "first", False),
        ("second", "second", False),
    ]
    assert Outer.fields()["name"].is_required


def test_a_type_that_nobody_can_read_is_our_own_mistake() -> None:
    """Told when the section is first used, not by a wrong value."""

    class Wrong(Section):
        number: complex = 0j

    with pytest.raises(TypeError, match="no way to read"):
        Wrong.parse({})
