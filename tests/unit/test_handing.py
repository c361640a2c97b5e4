"""The engine's end of a body that leaves by another process: whatever goes wrong is said."""

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from typing import cast

import pytest

from proxy.exchange import Exchange
from proxy.server.send import BodyDropped
from proxy.workers.channel import Channel
from proxy.workers.handing import _let_leave
from proxy.workers.question import Question
from proxy.workers.words import Ask, At, Failed

ASK = Ask("registry", "GET", "/blob", ("/blob", "", ""), (1, 1), (), "::1", None)


class BadBody:
    """One whose file cannot be had."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    @property
    def file(self) -> io.FileIO:
        raise self._error

    async def ready(self, offset: int) -> int:
        return offset + 1

    def memory(self, _offset: int, _end: int) -> memoryview | None:
        return None

    def failed(self, error: OSError) -> None:
        raise AssertionError(error)


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    """The engine's, and the serving process's."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    engine, serving = Channel(one), Channel(other)
    yield engine, serving
    engine.close()
    serving.close()


@pytest.mark.parametrize(
    ("error", "raised", "why"),
    [
        (OSError(24, "Too many open files"), BodyDropped, "[Errno 24] Too many open files"),
        (TimeoutError(110, "no answer"), BodyDropped, "[Errno 110] no answer"),
        (KeyError("a bug"), KeyError, "an internal error; the engine's log has its trace"),
    ],
    ids=["no descriptor", "a silent disk", "a bug"],
)
async def test_a_step_that_fails_is_said(
    ends: tuple[Channel, Channel], error: Exception, raised: type[Exception], why: str
) -> None:
    """A channel that just closed would look like an engine that died: it would be asked again."""
    engine, serving = ends
    leaving = asyncio.ensure_future(
        _let_leave(Question(ASK, engine, 0), BadBody(error), cast("Exchange", None), lambda _file: True)
    )
    serving.post(At(0))
    assert (await serving.expect(Failed)).message == Failed(why)
    with pytest.raises(raised):
        await leaving
