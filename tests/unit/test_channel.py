"""One connection between a serving process and the engine: messages whole and in order, files with them, ends told."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.workers.channel import UNREAD_MAX, UNSENT_MAX, Channel, connect, is_ours, listening, pieces
from proxy.workers.wire import DATA_MAX, WireBroken, encode
from proxy.workers.words import Bytes, Failed, Hello, UpTo
from tests.support.waiting import turns


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Channel, Channel]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends = Channel(one), Channel(other)
    try:
        yield ends
    finally:
        for end in ends:
            end.close()


@contextlib.asynccontextmanager
async def raw() -> AsyncIterator[tuple[socket.socket, Channel]]:
    """A socket whose other end is a channel."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(other)
    try:
        yield one, channel
    finally:
        channel.close()
        one.close()


async def test_messages_come_whole_and_in_order() -> None:
    """Also when far more is sent than the kernel takes: the sender waits, nothing is lost."""
    async with pair() as (one, other):
        data = os.urandom(DATA_MAX)

        async def say() -> None:
            for number in range(50):
                await one.send(UpTo(number), data)

        saying = asyncio.ensure_future(say())
        for number in range(50):
            found = await other.receive()
            assert (found.message, found.data) == (UpTo(number), data)
        await saying
        assert one.is_quiet


async def test_a_file_comes_with_its_message(tmp_path: Path) -> None:
    """It is the same file, the receiver's to close, and comes also when it had to wait; the sender keeps its own."""
    path = tmp_path / "blob"
    path.write_bytes(b"content")
    async with pair() as (one, other):
        with path.open("rb") as file:
            for number in range(UNREAD_MAX * 4):
                one.post(UpTo(number), bytes(DATA_MAX), file.fileno())
        for _ in range(UNREAD_MAX * 4):
            found = await other.receive()
            assert found.file is not None
            assert os.pread(found.file, 20, 0) == b"content"
            found.drop()
            assert found.file is None


async def test_an_end_is_told_once_and_to_all() -> None:
    """Who waits for a message, who sends, and who listens for the end hear of it; what came before is still read."""
    async with pair() as (one, other):
        told: list[bool] = []
        other.on_lost = lambda: told.append(other.is_open)
        one.post(Hello())
        one.close()
        assert (await other.receive()).message == Hello()
        with pytest.raises(ConnectionError):
            await other.receive()
        with pytest.raises(ConnectionError):
            other.post(Hello())
        with pytest.raises(ConnectionError):
            await other.send(Hello())
        assert told == [False]


async def test_a_sender_that_waits_hears_of_the_end() -> None:
    """Nobody waits for room in a connection that is gone."""
    async with pair() as (one, other):
        while one.is_quiet:
            one.post(Bytes(), bytes(DATA_MAX))
        waiting = asyncio.ensure_future(one.send(Bytes()))
        await turns()
        other.close()
        with pytest.raises(ConnectionError):
            await waiting


async def test_a_close_of_ones_own_is_told_to_nobody() -> None:
    """It is no loss; a second one is no error."""
    async with pair() as (one, _):
        told: list[int] = []
        one.on_lost = lambda: told.append(1)
        one.close()
        one.close()
        assert told == []


async def test_who_takes_nothing_is_given_up() -> None:
    """Memory is bounded: so many messages wait, then the connection ends."""
    async with pair() as (one, _):
        sent = 0
        while one.is_open:
            one.post(Failed("x" * 1000))
            sent += 1
        assert UNSENT_MAX <= sent < 2 * UNSENT_MAX
        with pytest.raises(ConnectionError):
            one.post(Failed(""))


@pytest.mark.parametrize("whole", [b"nonsense", encode(Hello()) + bytes(DATA_MAX + 1), b"\n"])
async def test_what_is_not_understood_ends_it(whole: bytes) -> None:
    """The other end finds its connection closed."""
    async with raw() as (peer, channel):
        peer.sendall(whole)
        with pytest.raises(WireBroken):
            await channel.receive()
        assert peer.recv(10) == b""


async def test_a_message_too_long_ends_it() -> None:
    """The kernel cuts it: what is left is no message."""
    async with raw() as (peer, channel):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        peer.sendall(encode(Hello()) + bytes(200 << 10))
        with pytest.raises(WireBroken):
            await channel.receive()


async def test_more_files_than_one_end_it_and_are_closed(tmp_path: Path) -> None:
    """What comes along unasked does not stay open."""
    path = tmp_path / "file"
    path.touch()
    async with raw() as (peer, channel):
        with path.open() as first, path.open() as second, path.open() as third:
            socket.send_fds(peer, [encode(Hello())], [first.fileno(), second.fileno(), third.fileno()])
        with pytest.raises(WireBroken):
            await channel.receive()
        assert not [name for name in os.listdir("/proc/self/fd") if _is(f"/proc/self/fd/{name}", path)]


def _is(descriptor: str, path: Path) -> bool:
    try:
        return os.readlink(descriptor) == str(path)
    except OSError:
        return False


async def test_another_kind_than_the_one_expected_is_refused() -> None:
    """Out of turn is as bad as unknown."""
    async with pair() as (one, other):
        one.post(Hello())
        with pytest.raises(WireBroken):
            await other.expect(UpTo)


async def test_a_connection_waits_for_whoever_listens() -> None:
    """One made before anybody accepts is taken later, with what it said; its process is known as ours."""
    with listening() as bound:
        channel = connect(bytes(bound.getsockname()))
        channel.post(Hello())
        accepted, _ = bound.accept()
        assert is_ours(accepted)
        taken = Channel(accepted)
        assert (await taken.receive()).message == Hello()
        taken.close()
        channel.close()


def test_pieces_are_all_of_it() -> None:
    """In order, none longer than a message takes."""
    data = os.urandom(DATA_MAX * 2 + 1)
    assert [len(piece) for piece in pieces(data)] == [DATA_MAX, DATA_MAX, 1]
    assert b"".join(pieces(data)) == data
