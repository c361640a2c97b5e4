"""The engine's counter: each question has a connection, and whatever comes over one harms no other."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import pytest
from aiohttp import web

from proxy.oci import Digest
from proxy.tasks import Tasks
from proxy.workers import counter
from proxy.workers.apart import Apart
from proxy.workers.board import Board
from proxy.workers.channel import Channel, connect, listening
from proxy.workers.counter import DIGESTS_MAX, Counter
from proxy.workers.question import Question
from proxy.workers.wire import DATA_MAX
from proxy.workers.words import Ask, Counts, Cut, Flush, Forget, Hello, Message, More, Serve, Settings, Small, UpTo


def ask(target: str = "/v2/", door: str = "registry") -> Ask:
    return Ask(door, "GET", target, (target, "a=b", ""), (1, 1), (("Range", "bytes=0-1"),), "::1", None)


@dataclass
class Open:
    """An open counter, and what happened behind it."""

    counter: Counter
    board: Board
    name: bytes
    counted: list[Counts] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    body: bytes = b"{}"

    async def handler(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.raw_path == "/never":
            self.asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        text = (
            f"{request.method} {request.rel_url} {request.headers['range']} {request.remote} {request.version < (1, 1)}"
        )
        assert cast("Question", request).changes == self.board.changes
        return web.Response(status=203, headers={"X-Asked": text}, body=self.body)

    async def channel(self) -> Channel:
        channel = connect(self.name)
        await channel.expect(Hello)
        return channel

    async def answer(self, channel: Channel, question: Ask) -> tuple[Small, bytes]:
        channel.post(question)
        found = await channel.expect(Small)
        told = cast("Small", found.message)
        body = found.data
        while len(body) < told.length:
            body += (await channel.expect(More)).data
        return told, body


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    with listening() as bound:
        async with Tasks() as tasks:
            board = Board()
            settings = Settings(7, None, None, 1.0)
            counter = Counter(Apart(bound, board, "http://x", None, 2), lambda: settings, tasks)
            made = Open(counter, board, bytes(bound.getsockname()))
            counter.doors["registry"], counter.counted = made.handler, made.counted.append
            counter.open()
            yield made
            await counter.close()


async def standing(opened: Open) -> Channel:
    channel = await opened.channel()
    channel.post(Serve(1))
    assert (await channel.expect(Settings)).message == Settings(7, None, None, 1.0)
    return channel


async def test_a_question_is_answered_as_a_request_is(opened: Open) -> None:
    """One after another over the same connection; a body of any length, an empty one too."""
    channel = await opened.channel()
    for length in (0, 1, DATA_MAX, 5 * DATA_MAX + 3):
        opened.body = b"x" * length
        told, body = await opened.answer(channel, ask())
        assert (told.status, told.length, body, told.facts) == (203, length, opened.body, None)
        assert dict(told.headers)["X-Asked"] == "GET /v2/?a=b bytes=0-1 ::1 False"
    channel.close()


async def test_who_leaves_ends_the_answer(opened: Open) -> None:
    """As a client's own connection would: nothing works on for nobody."""
    channel = await opened.channel()
    channel.post(ask("/never"))
    await opened.asked.wait()
    channel.close()
    await opened.left.wait()


@pytest.mark.parametrize(
    "message", [UpTo(1), ask(door="none"), Counts((), (), 0, 0)], ids=lambda one: type(one).__name__
)
async def test_what_is_no_question_ends_its_connection_alone(opened: Open, message: Message) -> None:
    """Others are answered on."""
    channel, other = await opened.channel(), await opened.channel()
    channel.post(message)
    with pytest.raises(ConnectionError):
        await channel.receive()
    assert (await opened.answer(other, ask()))[0].status == 203
    other.close()


async def test_every_change_is_on_the_board_and_told(opened: Open) -> None:
    """The number first, so that nobody gives an answer again in between; long lists in several messages."""
    channel, before = await standing(opened), opened.board.changes
    opened.counter.changed()
    assert opened.board.changes == before + 1
    digests = [Digest("sha256", f"{number:064x}") for number in range(DIGESTS_MAX + 1)]
    opened.counter.forget(digests)
    assert opened.board.changes == before + 2
    first, second = (await channel.expect(Forget)).message, (await channel.expect(Forget)).message
    assert cast("Forget", first).digests + cast("Forget", second).digests == tuple(map(str, digests))
    opened.counter.forget([])
    assert (await channel.expect(Forget)).message == Forget(())
    opened.counter.cut(digests[:1])
    assert (await channel.expect(Cut)).message == Cut((str(digests[0]),))
    opened.counter.cut([])
    opened.counter.limit(3)
    assert (await channel.expect(Settings)).message == Settings(7, None, None, 1.0)
    assert opened.board.changes == before + 6
    channel.close()


async def test_who_stands_anew_is_told_what_is_blocked(opened: Open) -> None:
    """It may have been told while it was away; an answer that carries such a digest goes on until then."""
    blocked = [Digest("sha256", f"{number:064x}") for number in range(DIGESTS_MAX + 1)]
    opened.counter.blocked = lambda: blocked
    channel = await standing(opened)
    told = [cast("Cut", (await channel.expect(Cut)).message).digests for _ in range(2)]
    assert [digest for digests in told for digest in digests] == list(map(str, blocked))
    channel.close()


async def test_the_parent_sees_how_long_a_drain_may_take_by_now(opened: Open) -> None:
    """Another configuration may give it longer: nobody is killed for taking that."""
    opened.board.drain_s = 25.0
    opened.counter.limit(7)
    assert opened.board.drain_s == 1.0


async def test_a_flush_waits_for_what_was_counted(opened: Open) -> None:
    """From every process that answers; what they count unasked is taken as well."""
    first, second = await standing(opened), await standing(opened)
    flushing = asyncio.ensure_future(opened.counter.flush())
    for number, channel in enumerate((first, second), 1):
        flush = cast("Flush", (await channel.expect(Flush)).message)
        channel.post(Counts((), (), number, 0))
        channel.post(Counts((), (), number, flush.number))
    await flushing
    assert len(opened.counted) == 4
    assert opened.counter.connections == 3
    first.close()
    second.close()


async def test_a_flush_does_not_wait_for_one_that_is_gone(opened: Open) -> None:
    """Its connection ends, and nobody is left to answer."""
    channel = await standing(opened)
    channel.close()
    await opened.counter.flush()
    assert opened.counted == []


async def test_a_refusal_of_the_kernel_ends_one_connection_and_not_the_counter(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who came in that moment is turned away; the next one is served."""
    refusals = [OSError(errno.ENOSPC, "no room in the selector")]

    def refused_once(accepted: socket.socket) -> Channel:
        if refusals:
            raise refusals.pop()
        return Channel(accepted)

    monkeypatch.setattr(counter, "Channel", refused_once)
    turned_away = connect(opened.name)
    with pytest.raises(ConnectionError):
        await turned_away.receive()
    channel = await opened.channel()
    assert (await opened.answer(channel, ask()))[0].status == 203
    channel.close()


async def test_a_new_engine_makes_every_earlier_answer_void(opened: Open) -> None:
    """Its rules and records may be others."""
    before = opened.board.changes
    opened.counter.open()
    assert opened.board.changes == before + 1
