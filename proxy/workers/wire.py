"""What a serving process and the engine say to each other: a name and fields in JSON, and raw bytes behind them.

Both are of one build and one user; still nothing is taken on trust: a field that is missing, too many or of another
type ends the connection. Pure.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin, get_type_hints

import orjson

from proxy.workers.words import (
    Ask,
    At,
    Blob,
    Bytes,
    Counts,
    Cut,
    End,
    Failed,
    Fault,
    Flush,
    Forget,
    Hello,
    Message,
    More,
    Serve,
    Settings,
    Small,
    UpTo,
)

DATA_MAX: Final = 128 << 10  # raw bytes behind one message
Reader = Callable[[Any], Any]
_FIELDS: Final[dict[str, dict[str, Reader]]] = {}


class WireBroken(ConnectionError):
    """The other end spoke what nobody understands."""


KINDS: Final[Mapping[str, type[Message]]] = {
    kind.__name__: kind
    for kind in (
        Hello, Settings, Cut, Forget, Flush, Small, More, Blob, UpTo, Bytes, Failed,
        Serve, Ask, At, Fault, End, Counts,
    )
}  # fmt: skip


def encode(message: Message, data: "bytes | memoryview" = b"") -> bytes:
    """A message as it travels: one line of JSON, then `data`."""
    return b"".join((orjson.dumps((type(message).__name__, message)), b"\n", data))


def decode(whole: bytes) -> tuple[Message, bytes]:
    """The message and the bytes behind it. WireBroken: it is none of ours."""
    line, end, data = whole.partition(b"\n")
    try:
        name, told = orjson.loads(line)
        kind = KINDS[name]
    except (ValueError, TypeError, KeyError) as cause:
        raise WireBroken("no message of ours") from cause
    if not end or len(data) > DATA_MAX:
        raise WireBroken(f"{name}: it has no end, or too much behind it")
    return _built(kind, told), data


def _built(kind: type[Message], told: object) -> Message:
    fields_of = _fields(kind)
    if not isinstance(told, dict) or told.keys() != fields_of.keys():
        raise WireBroken(f"{kind.__name__}: its fields are not those of this version")
    return kind(**{name: read(told[name]) for name, read in fields_of.items()})


def _fields(kind: type[Message]) -> dict[str, Reader]:
    """How each field of a message is read; looked up once."""
    known = _FIELDS.get(kind.__name__)
    if known is None:
        hints = get_type_hints(kind)
        known = _FIELDS[kind.__name__] = {field.name: _reader(hints[field.name]) for field in fields(kind)}
    return known


def _reader(hint: Any) -> Reader:
    """What reads a value of a type: lists become tuples, maps messages. It raises WireBroken for any other value."""
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        return _many(_reader(kinds[0])) if kinds[-1] is Ellipsis else _several([_reader(kind) for kind in kinds])
    if isinstance(hint, UnionType):
        inner = _reader(next(kind for kind in get_args(hint) if kind is not NoneType))
        return lambda value: None if value is None else inner(value)
    if issubclass(hint, Message):
        return lambda value: _built(hint, value)
    return partial(_plain, hint)


def _plain(kind: type[Any], value: Any) -> Any:
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        return float(value)
    raise WireBroken(f"a field is {type(value).__name__}, not {kind.__name__}")


def _many(read: Reader) -> Reader:
    return lambda value: tuple(map(read, _list(value)))


def _several(readers: list[Reader]) -> Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if len(_list(value)) != len(readers):
            raise WireBroken(f"{len(value)} items, not {len(readers)}")
        return tuple(reader(item) for reader, item in zip(readers, value, strict=True))

    return read


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise WireBroken(f"a field is {type(value).__name__}, not a list")
    return value
