"""A blob's bytes in a serving process, step by step: from whichever engine there is, and only if they fit together."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import CisternError, Overloaded
from proxy.workers.asking import TRIES, Engine
from proxy.workers.bodies import AskedBody, BodyLost
from proxy.workers.channel import listening
from proxy.workers.words import Ask, At, Blob, Bytes, End, Failed, Fault, Message, Small, Taken, UpTo
from tests.support.asking import QUESTION, Desk, blob


@asynccontextmanager
async def asked(answer: Blob) -> AsyncIterator[tuple[Desk, AskedBody, Engine]]:
    """A body that an engine has just answered with."""
    with listening() as bound:
        desk, engine = Desk(bound), Engine(bytes(bound.getsockname()), away_s=5.0)
        asking = asyncio.ensure_future(engine.ask(QUESTION))
        await desk.take()
        assert await desk.hears(Ask) == QUESTION
        desk.says(answer)
        channel, found = await asking
        body = AskedBody(engine, QUESTION, channel, found, answer)
        try:
            yield desk, body, engine
        finally:
            body.leave()
            engine.close()
            desk.die()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "part"
    path.write_bytes(os.urandom(100))
    return path


def content(path: Path) -> bytes:
    return path.read_bytes()


def cut_short(receive: Callable[..., tuple[bytes, list[int], int, Any]]) -> Callable[..., object]:
    """`recv_fds` of a process that has no descriptor left: the message comes without its file."""

    def received(*args: Any) -> tuple[bytes, list[int], int, Any]:
        whole, files, flags, address = receive(*args)
        for file in files:
            os.close(file)
        return whole, [], flags | (socket.MSG_CTRUNC if b"UpTo" in whole or b"Blob" in whole else 0), address

    return received


async def step(
    desk: Desk, body: AskedBody, offset: int, answer: Message, data: bytes = b"", file: int | None = None
) -> int:
    """One step, answered."""
    waiting = asyncio.ensure_future(body.ready(offset))
    assert await desk.hears(At) == At(offset)
    desk.says(answer, data, file)
    return await waiting


async def next_engine(desk: Desk, body: AskedBody, offset: int, answer: Message) -> asyncio.Future[int]:
    """A step from `offset` on whose engine has died, and whose question the next engine answers with this."""
    desk.die()
    waiting = asyncio.ensure_future(body.ready(offset))
    await desk.take()
    await desk.hears(Ask)
    desk.says(answer)
    return waiting


async def test_bytes_come_from_memory_and_from_the_file(file: Path) -> None:
    """Whichever the engine has; the file is shown once."""
    async with asked(blob()) as (desk, body, engine):
        assert await step(desk, body, 0, Bytes(), b"12345") == 5
        assert bytes(body.memory(0, 3) or b"") == b"123"
        with file.open("rb") as opened:
            assert await step(desk, body, 5, UpTo(40), file=opened.fileno()) == 40
        assert body.memory(5, 40) is None
        assert os.pread(body.file.fileno(), 100, 0) == content(file)
        assert await step(desk, body, 40, UpTo(100)) == 100
        body.failed(OSError(5, "bad"))
        assert body.end(100, None)
        assert await desk.hears(Fault) == Fault(5, "[Errno 5] bad")
        assert await desk.hears(End) == End(100, None)
        channel = await engine.open()
        assert channel.is_quiet  # the same one, for the next question
        channel.close()


async def test_the_engines_refusal_ends_it_and_is_the_engines_to_tell() -> None:
    """Why the body cannot be whole comes from the engine, and so does its line in the log."""
    async with asked(blob()) as (desk, body, _):
        with pytest.raises(BodyLost, match="upstream lied"):
            await step(desk, body, 0, Failed("upstream lied"))
        assert body.end(0, "upstream lied")  # it was told: no line of ours


async def test_the_next_engine_hears_what_was_taken_and_goes_on(file: Path) -> None:
    """From the start of what left to where it stands, of which file: so it can judge whether more may follow."""
    async with asked(blob()) as (desk, body, _):
        with file.open("rb") as opened:
            await step(desk, body, 10, UpTo(40), file=opened.fileno())
            status = os.fstat(opened.fileno())
            desk.die()
            waiting = asyncio.ensure_future(body.ready(40))
            await desk.take()
            question = await desk.hears(Ask)
            assert isinstance(question, Ask)
            assert question.taken == Taken(status.st_dev, status.st_ino, 10, 40)
            desk.says(blob())
            assert await desk.hears(At) == At(40)
            desk.says(UpTo(100), file=opened.fileno())
        assert await waiting == 100
        assert os.pread(body.file.fileno(), 100, 0) == content(file)


async def test_an_engine_that_dies_before_any_byte_costs_nothing() -> None:
    """Nothing left, so nothing has to fit: the next engine is asked as the first was."""
    async with asked(blob()) as (desk, body, _):
        desk.die()
        waiting = asyncio.ensure_future(body.ready(0))
        await desk.take()
        question = await desk.hears(Ask)
        assert question == QUESTION
        desk.says(blob())
        await desk.hears(At)
        desk.says(Bytes(), b"abc")
        assert await waiting == 3


@pytest.mark.parametrize(
    ("again", "said"),
    [
        (blob(101), "another answer"),
        (blob(None), "another answer"),
        (Small(404, (), 0, None), "says Small"),
        (Failed("no"), "says Failed"),
    ],
    ids=["another size", "no size", "not here any more", "refused"],
)
async def test_another_answer_than_the_first_drops_the_body(again: Message, said: str, file: Path) -> None:
    """The head is out: what does not fit to it can never be sent."""
    async with asked(blob()) as (desk, body, _):
        with file.open("rb") as opened:
            await step(desk, body, 0, UpTo(40), file=opened.fileno())
        waiting = await next_engine(desk, body, 40, again)
        with pytest.raises(CisternError, match=said):
            await waiting


@pytest.mark.parametrize(
    ("parts", "told"),
    [((("", 80, 100),), "bytes 80-99/100"), ((("", 0, 20),), "bytes 0-19/90")],
    ids=["other bytes", "of another size"],
)
async def test_a_range_that_is_another_one_now_drops_the_body(
    parts: tuple[tuple[str, int, int], ...], told: str, file: Path
) -> None:
    """The last bytes of a blob whose size another engine knows otherwise are as many, and others."""
    first = Blob(206, (("Content-Range", "bytes 0-19/100"),), 20, (("", 0, 20),), "", False, "sha256:0", None, None)
    async with asked(first) as (desk, body, _):
        with file.open("rb") as opened:
            await step(desk, body, 0, UpTo(10), file=opened.fileno())
            waiting = await next_engine(desk, body, 10, replace(first, parts=parts, headers=(("Content-Range", told),)))
            with pytest.raises(BodyLost, match="another answer"):
                await waiting


async def test_an_engine_that_answers_no_step_is_not_asked_for_ever() -> None:
    """It is there, and each time it closes the channel without a word: so often, and no more."""
    async with asked(blob()) as (desk, body, _):
        waiting = asyncio.ensure_future(body.ready(0))
        for _ in range(TRIES):
            await desk.hears(At)
            desk.die()
            await desk.take()
            await desk.hears(Ask)
            desk.says(blob())
        await desk.hears(At)
        desk.die()
        with pytest.raises(BodyLost):
            await waiting


async def test_each_byte_is_worth_asking_again(file: Path) -> None:
    """A body that moves on outlives any number of engines."""
    async with asked(blob()) as (desk, body, _):
        with file.open("rb") as opened:
            await step(desk, body, 0, UpTo(1), file=opened.fileno())
            for offset in range(1, 3 + TRIES):
                desk.die()
                waiting = asyncio.ensure_future(body.ready(offset))
                await desk.take()
                await desk.hears(Ask)
                desk.says(blob())
                await desk.hears(At)
                desk.says(UpTo(offset + 1), file=opened.fileno())
                assert await waiting == offset + 1


async def test_a_file_that_cannot_be_taken_drops_the_body(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor is left for it here: to ask again would be answered the same way, at once and for ever."""
    async with asked(blob()) as (desk, body, _):
        monkeypatch.setattr(socket, "recv_fds", cut_short(socket.recv_fds))
        with file.open("rb") as opened, pytest.raises(BodyLost, match="cut short"):
            await step(desk, body, 0, UpTo(40), file=opened.fileno())


async def test_an_answer_that_cannot_be_taken_is_told_as_trouble_here() -> None:
    """503 to the client, who comes again; the engine is not asked once more."""
    with listening() as bound:
        desk, engine = Desk(bound), Engine(bytes(bound.getsockname()), away_s=5.0)
        asking = asyncio.ensure_future(engine.ask(QUESTION))
        await desk.take()
        await desk.hears(Ask)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(socket, "recv_fds", cut_short(socket.recv_fds))
            desk.says(blob())
            with pytest.raises(Overloaded, match="cut short"):
                await asking
        desk.die()


async def test_what_no_file_holds_is_not_asked_for_again() -> None:
    """Bytes from memory that left: nobody could tell whether what follows fits to them."""
    async with asked(blob()) as (desk, body, _):
        await step(desk, body, 0, Bytes(), b"12345")
        desk.die()
        with pytest.raises(BodyLost):
            await body.ready(5)
        assert not body.end(5, "lost")  # nobody told it: the line is ours


async def test_several_ranges_are_not_asked_for_again(file: Path) -> None:
    """Their boundary was the first engine's own."""
    async with asked(blob(parts=2)) as (desk, body, _):
        with file.open("rb") as opened:
            await step(desk, body, 0, UpTo(40), file=opened.fileno())
        desk.die()
        with pytest.raises(BodyLost):
            await body.ready(40)
