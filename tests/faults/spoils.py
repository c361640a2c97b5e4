"""What goes wrong with an upstream: each a function of the stage, for the rows to name."""

import json
from collections.abc import Callable
from typing import Any, Final

from tests.faults.stage import MIB, TAG, Stage
from tests.support import script
from tests.support.faults import End
from tests.support.images import Blob
from tests.support.realm import TokenShape
from tests.support.wire import Answer, Fault, Gate, reply

BOTH: Final = ("GET", "HEAD")


def once(*faults: Fault) -> Callable[[Stage], None]:
    """The layer's next answer is spoilt so."""
    return lambda stage: void(stage.registry.script(stage.layer.digest, *faults, times=1))


def always(*faults: Fault) -> Callable[[Stage], None]:
    """Every answer about the layer is spoilt so."""
    return lambda stage: void(stage.registry.script(stage.layer.digest, *faults, methods=BOTH))


def all_answers(*faults: Fault) -> Callable[[Stage], None]:
    """Every answer of the registry is spoilt so."""
    return lambda stage: void(stage.registry.script("*", *faults, methods=BOTH))


def tag_answers(*faults: Fault) -> Callable[[Stage], None]:
    """Every answer about the tag is spoilt so."""
    return lambda stage: void(stage.registry.script(TAG, *faults, methods=BOTH))


def void(_made: object) -> None:
    """A scripted fault stands by itself."""


def cut_then(*lies: Fault) -> Callable[[Stage], None]:
    """The layer's answer is cut, and the one after it lies: later scripts come first."""

    def spoil(stage: Stage) -> None:
        once(*lies)(stage)
        once(script.cut(MIB))(stage)

    return spoil


def silent(stage: Stage) -> None:
    """The registry takes every request and answers none."""
    void(stage.registry.hold_headers("*"))


def cut_road(after: int, end: End) -> Callable[[Stage], None]:
    """The next connection from the upstream ends after so many bytes of answer."""

    def spoil(stage: Stage) -> None:
        stage.road.reset()  # a kept connection has carried bytes already
        stage.road.down.cut_after, stage.road.down.cuts, stage.road.down.end = after, 1, end

    return spoil


def refuse(count: int | None) -> Callable[[Stage], None]:
    """The next `count` connections to the upstream (None: all) are reset as they come."""

    def spoil(stage: Stage) -> None:
        stage.road.reset()
        stage.road.refusing, stage.road.refuse_next = count is None, count or 0

    return spoil


def total(by: int) -> Fault:
    """A 206 that names another size of the whole."""

    def told(answer: Answer) -> Answer:
        start = len(answer.whole) - len(answer.body)
        return answer.with_header("Content-Range", f"bytes {start}-{len(answer.whole) - 1}/{len(answer.whole) + by}")

    return told


def expired_at_once(stage: Stage) -> None:
    """The first signed URL is past its time when it is used."""
    made: list[str] = []

    def sign(blob: Blob) -> str:
        made.append(stage.cdn.sign(blob))
        if len(made) == 1:
            stage.cdn.expire_all()
        return made[-1]

    stage.registry.redirect_blobs = sign


def expired_in_mid_body(stage: Stage) -> None:
    """The data host cuts the body, and every URL given out so far has expired when it is asked again."""

    def cut(answer: Answer) -> Answer:
        stage.cdn.expire_all()
        return script.cut(MIB)(answer)

    stage.cdn.script("*", cut, times=1)


def token_expired_in_mid_body(stage: Stage) -> None:
    """The registry cuts the body, and takes none of the tokens so far when it is asked again."""

    def cut(answer: Answer) -> Answer:
        stage.realm.expire_all()
        return script.cut(MIB)(answer)

    once(cut)(stage)


def realm_answers(*faults: Fault) -> Callable[[Stage], None]:
    """The realm answers so, and the tokens that it gave are taken no more."""

    def spoil(stage: Stage) -> None:
        stage.realm.expire_all()
        stage.realm.script("*", *faults, methods=("GET", "POST"))

    return spoil


def realm_silent(stage: Stage) -> None:
    stage.realm.expire_all()
    stage.realm.script("*", script.gate_headers(Gate()), methods=("GET", "POST"))


def realm_shape(**shape: Any) -> Callable[[Stage], None]:
    """Tokens whose answers look so."""

    def prepare(stage: Stage) -> None:
        stage.wants_tokens()
        stage.realm.shape = TokenShape(**shape)

    return prepare


def expired_token(answer: Answer) -> Answer:
    """A token whose time was over before it was given."""
    return reply(200, json.dumps(json.loads(answer.body) | {"expires_in": -300}).encode())


def past_iat(answer: Answer) -> Answer:
    """A token that was issued, it says, long ago."""
    body = json.loads(answer.body) | {"issued_at": "2001-01-01T00:00:00Z", "expires_in": 300}
    return reply(200, json.dumps(body).encode())
