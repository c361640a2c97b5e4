"""A map of the file as a frozen object, by the annotations of its class: which keys it has and how each is read.

    class TimeoutsConfig(Section):
        connect_s: Annotated[float, Read(positive_seconds)] = key(5.0, alias="connect")

Values are read by functions of our own, which raise ValueError with a reason; what is here finds every problem of a
whole tree at once, each with its place. (pydantic did this before, and kept 10 MB resident in every process.) A key
that was not given has no place in the object: its value is the class's, so that a hundred thousand rules stay small.
"""

import difflib
import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Final,
    Literal,
    NamedTuple,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

Loc = tuple[str | int, ...]
REQUIRED: Final = object()
NOT_A_MAP: Final = "must be a map of keys"


class Wrong(NamedTuple):
    """One thing that is wrong, and where in the tree. `reason` repeats no value: it could be a secret."""

    loc: Loc
    reason: str


class SectionRefused(ValueError):
    """A tree cannot be read; `problems` are all of it."""

    def __init__(self, problems: list[Wrong]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, loc))}: {reason}" for loc, reason in problems))
        self.problems = problems


Reader = Callable[[Any, Loc, list[Wrong]], Any]  # the value read; or anything, and one problem more in the list


@dataclass(frozen=True, slots=True)
class Read:
    """How a value is read. `read` raises ValueError."""

    read: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Before:
    """What is made of a value before it is read."""

    change: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Filled:
    """A list that must not be empty."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a section. `alias` is its name in the file, `name` the attribute, `hint` its type as annotated."""

    name: str
    alias: str
    hint: Any
    is_required: bool


@dataclass(frozen=True, slots=True)
class _Declared:
    default: Any
    alias: str | None


def key(default: Any = REQUIRED, *, alias: str | None = None) -> Any:
    """What a key is when it is not given, and its name in the file where that is not the attribute's."""
    return _Declared(default, alias)


class Section:
    """One map of the file: unknown keys refused, nothing changes after load."""

    _aliases: ClassVar[dict[str, str]] = {}
    _keys: ClassVar[dict[str, Key] | None] = None
    _readers: ClassVar[dict[str, tuple[str, Reader]]] = {}

    def __init_subclass__(cls) -> None:
        cls._aliases, cls._keys = {}, None
        for name, declared in list(vars(cls).items()):
            if not isinstance(declared, _Declared):
                continue
            if declared.alias is not None:
                cls._aliases[name] = declared.alias
            if declared.default is REQUIRED:
                delattr(cls, name)
            else:
                setattr(cls, name, declared.default)

    @classmethod
    def fields(cls) -> Mapping[str, Key]:
        """Every key, by attribute."""
        if cls._keys is None:
            hints = get_type_hints(cls, include_extras=True)
            cls._keys = {
                name: Key(name, cls._aliases.get(name, name), hints[name], not hasattr(cls, name))
                for name in hints
                if get_origin(hints[name]) is not ClassVar
            }
            cls._readers = {one.alias: (one.name, _reader(one.hint)) for one in cls._keys.values()}
        return cls._keys

    @classmethod
    def parse(cls, value: object) -> Self:
        """Read a tree. Raises SectionRefused with every problem."""
        problems: list[Wrong] = []
        found = cls.read_at(value, (), problems)
        if found is None:
            raise SectionRefused(problems)
        return found

    @classmethod
    def read_at(cls, value: object, loc: Loc, problems: list[Wrong]) -> Self | None:
        """Read a tree that stands at `loc`; None, and its problems added, if it is refused."""
        if isinstance(value, cls):
            return value
        if (refusal := cls.refused(value)) is not None:
            problems.append(Wrong(loc, refusal))
            return None
        if value is None:  # a section with nothing under it is an empty one
            value = {}
        if not isinstance(value, dict):
            problems.append(Wrong(loc, NOT_A_MAP))
            return None
        before = len(problems)
        made = cls(**cls._given_in(value, loc, problems))
        if len(problems) == before and (refusal := made.contradiction()) is not None:
            problems.append(Wrong(loc, refusal))
        return made if len(problems) == before else None

    @classmethod
    def _given_in(cls, value: Mapping[Any, Any], loc: Loc, problems: list[Wrong]) -> dict[str, Any]:
        """The values of a map's keys, by attribute."""
        fields, given = cls.fields(), {}
        for alias, item in value.items():
            if alias in cls._readers:
                name, read = cls._readers[alias]
                given[name] = read(item, (*loc, alias), problems)
            else:
                problems.append(Wrong((*loc, alias), _unknown(str(alias), cls._readers)))
        missing = [one.alias for one in fields.values() if one.is_required and one.name not in given]
        problems += [Wrong((*loc, alias), "is missing") for alias in missing]
        return given

    @classmethod
    def refused(cls, value: object) -> str | None:
        """Why a value cannot be this section at all, before any key of it is read."""
        return None

    def contradiction(self) -> str | None:
        """Why its keys, each good by itself, cannot stand together."""
        return None

    def __init__(self, **given: Any) -> None:
        """A section of values that have been read, by attribute."""
        self.__dict__.update(given)

    @property
    def given(self) -> frozenset[str]:
        """The attributes that were given."""
        return frozenset(self.__dict__)

    def replaced(self, **values: Any) -> Self:
        """The same with other values, which have been read."""
        return type(self)(**(self.__dict__ | values))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is frozen")

    def _values(self) -> Iterator[Any]:
        return (getattr(self, name) for name in self.fields())

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(a == b for a, b in zip(self._values(), other._values(), strict=True))

    def __hash__(self) -> int:
        return hash(tuple(self._values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"


def _unknown(alias: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(alias, known, n=1)
    return f"unknown key, did you mean {near[0]}?" if near else "unknown key"


def _reader(hint: Any) -> Reader:
    """The reader of a type as annotated."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _marked(*inner)
    if origin in (Union, UnionType):
        [read] = [_reader(one) for one in inner if one is not type(None)]
        return lambda value, loc, problems: None if value is None else read(value, loc, problems)
    if origin in (tuple, frozenset):
        return _list_of(origin, _reader(inner[0]))
    if origin is dict:
        return _map_of(_reader(inner[0]), _reader(inner[1]))
    if origin is Literal:
        return _one_of({word: word for word in inner})
    if issubclass(hint, enum.Enum):
        return _one_of({member.value: member for member in hint})
    if issubclass(hint, Section):
        section: type[Section] = hint
        return section.read_at
    raise TypeError(f"no way to read {hint}")


def _marked(hint: Any, *marks: Any) -> Reader:
    own = next((mark.read for mark in marks if isinstance(mark, Read)), None)
    reader = _reader(hint) if own is None else _value(own)
    for mark in marks:
        if isinstance(mark, Before):
            reader = _changed(mark.change, reader)
        elif isinstance(mark, Filled):
            reader = _filled(reader)
    return reader


def _value(read: Callable[[Any], Any]) -> Reader:
    def value(written: Any, loc: Loc, problems: list[Wrong]) -> Any:
        try:
            return read(written)
        except ValueError as refusal:
            problems.append(Wrong(loc, str(refusal)))
            return None

    return value


def _changed(change: Callable[[Any], Any], reader: Reader) -> Reader:
    return lambda value, loc, problems: reader(change(value), loc, problems)


def _filled(reader: Reader) -> Reader:
    def filled(value: Any, loc: Loc, problems: list[Wrong]) -> Any:
        if isinstance(value, list | tuple) and not value:
            problems.append(Wrong(loc, "must not be empty"))
            return None
        return reader(value, loc, problems)

    return filled


def _list_of(kind: type[tuple[Any, ...]] | type[frozenset[Any]], reader: Reader) -> Reader:
    def items(value: Any, loc: Loc, problems: list[Wrong]) -> Any:
        if not isinstance(value, list | tuple):
            problems.append(Wrong(loc, "must be a list"))
            return None
        return kind([reader(item, (*loc, index), problems) for index, item in enumerate(value)])

    return items


def _map_of(name: Reader, reader: Reader) -> Reader:
    def items(value: Any, loc: Loc, problems: list[Wrong]) -> Any:
        if not isinstance(value, dict):
            problems.append(Wrong(loc, NOT_A_MAP))
            return None
        return {name(one, (*loc, one), problems): reader(item, (*loc, one), problems) for one, item in value.items()}

    return items


def _one_of(words: Mapping[Any, Any]) -> Reader:
    *most, last = (repr(word) for word in words)
    told = f"must be {', '.join(most)} or {last}" if most else f"must be {last}"

    def word(value: Any, loc: Loc, problems: list[Wrong]) -> Any:
        if isinstance(value, str) and value in words:
            return words[value]
        problems.append(Wrong(loc, told))
        return None

    return word
