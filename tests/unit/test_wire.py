"""Messages between a serving process and the engine: every kind comes through whole, nothing else comes through."""

import json
from typing import Any

import pytest

from proxy.workers.wire import DATA_MAX, KINDS, WireBroken, decode, encode
from proxy.workers.words import (
    Ask,
    At,
    Blob,
    Bytes,
    Counted,
    Counts,
    Cut,
    End,
    Facts,
    Failed,
    Fault,
    Flush,
    Forget,
    Heard,
    Hello,
    Message,
    More,
    Serve,
    Settings,
    Small,
    Taken,
    UpTo,
)

FACTS = Facts("blob", "hub", "team/app@sha256:0", "sha256:0", 7, None, 0.5)
ASK = Ask("registry", "GET", "/v2/", ("/v2/", "", ""), (1, 1), (("Range", "bytes=0-"),), "::1", Taken(1, 2, 3, 4))
SAID: list[Message] = [
    Hello(),
    Settings(100, None, "/key", 25.0),
    Cut(("sha256:0", "sha256:1")),
    Forget(()),
    Flush(3),
    Small(200, (("A", "b"),), 4, FACTS),
    More(),
    Blob(206, (("A", "b\u00e9"),), None, (("\r\n--x\r\n", 0, 5),), "--", True, "sha256:0", 9, FACTS),
    UpTo(1 << 40),
    Bytes(),
    Failed("why"),
    Serve(2),
    ASK,
    At(0),
    Fault(5, "I/O error"),
    End(17, None),
    Counts((Counted("hub", "blob", "GET", "hit", 200, 1, 2, 0.5, (0, 1)),), (Heard("/v2/x", "sha256:0"),), 3, 0),
]


@pytest.mark.parametrize("message", SAID, ids=lambda message: type(message).__name__)
def test_what_is_said_is_what_is_heard(message: Message) -> None:
    """Fields keep their types, and the bytes behind a message every value, line ends included."""
    assert decode(encode(message, b"\n\x00{}\n")) == (message, b"\n\x00{}\n")
    assert decode(encode(message)) == (message, b"")


def test_every_kind_is_tried() -> None:
    """A kind that is added is added above."""
    assert {type(message).__name__ for message in SAID} == set(KINDS)


def line(name: Any, told: Any) -> bytes:
    return json.dumps([name, told]).encode() + b"\n"


UP_TO = {"end": 1}
REFUSED = {
    "nothing": b"",
    "no JSON": b"\xff\xfe\n",
    "no line end": line("UpTo", UP_TO)[:-1],
    "cut in the middle": line("UpTo", UP_TO)[:9],
    "no pair": b'"UpTo"\n',
    "a map": b'{"UpTo": {"end": 1}}\n',
    "three": b'["UpTo", {"end": 1}, 2]\n',
    "a name that is none": line("Message", {}),
    "a name that is a list": line(["UpTo"], UP_TO),
    "a name that is null": line(None, UP_TO),
    "no fields": line("UpTo", None),
    "a list for fields": line("UpTo", [1]),
    "a field missing": line("UpTo", {}),
    "a field too many": line("UpTo", {"end": 1, "more": 2}),
    "another field": line("UpTo", {"stop": 1}),
    "text for a number": line("UpTo", {"end": "1"}),
    "a fraction for a number": line("UpTo", {"end": 1.5}),
    "a truth for a number": line("UpTo", {"end": True}),
    "null for a number": line("UpTo", {"end": None}),
    "a number beyond 64 bits": b'["UpTo", {"end": 99999999999999999999999}]\n',
    "a map for a list": line("Cut", {"digests": {"a": 1}}),
    "a number in a list of texts": line("Cut", {"digests": ["sha256:0", 1]}),
    "a pair of three": line("Small", {"status": 200, "headers": [["a", "b", "c"]], "length": 0, "facts": None}),
    "a message inside that is none": line("Small", {"status": 200, "headers": [], "length": 0, "facts": {"kind": "x"}}),
    "deep": b'["UpTo", ' + b"[" * 5000 + b"]" * 5000 + b"]\n",
    "too much behind it": line("Bytes", {}) + bytes(DATA_MAX + 1),
}


@pytest.mark.parametrize("whole", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_message_of_ours_is_refused(whole: bytes) -> None:
    """It ends the connection, whatever it is: nothing else is raised."""
    with pytest.raises(WireBroken):
        decode(whole)


@pytest.mark.parametrize("message", SAID, ids=lambda message: type(message).__name__)
def test_a_message_that_lost_its_end_is_refused(message: Message) -> None:
    """At every byte."""
    whole = encode(message)
    for length in range(len(whole)):
        with pytest.raises(WireBroken):
            decode(whole[:length])
