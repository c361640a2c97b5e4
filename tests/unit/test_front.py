"""A serving process's own part of an answer: whatever it meets, the engine's question ends."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from proxy.config import Address
from proxy.server.gate import Gate
from proxy.server.listen import listen
from proxy.store.threads import Threads
from proxy.workers import front as room
from proxy.workers.apart import REGISTRY
from proxy.workers.asking import Engine
from proxy.workers.board import Board
from proxy.workers.channel import Channel, listening
from proxy.workers.front import Front
from proxy.workers.kept import Kept
from proxy.workers.words import Ask, Blob, End, Facts, Hello
from tests.support.pulling import Pulling

PATH = "/v2/hub.test/team/app/blobs/sha256:0"
CONTENT = os.urandom(1000)
DIGEST = f"sha256:{'0' * 64}"


@pytest.fixture
def bound() -> socket.socket:
    return listening()


@pytest.fixture
async def netloc(bound: socket.socket) -> AsyncIterator[str]:
    """A serving process's registry address, before an engine that is the test's to play; HOST:PORT."""
    with bound:
        engine = Engine(bytes(bound.getsockname()))
        async with Threads(disk=1, hashing=1) as threads:
            front = Front(
                REGISTRY,
                engine,
                Kept(Board()),
                threads,
                observe=lambda _: None,
                heard=lambda _: None,
                mark="1.1-",
            )
            gate = Gate(front, lambda: 9, observe=lambda _: None)
            listener = await listen(Address("127.0.0.1", 0), gate)
            try:
                yield listener.url.removeprefix("http://")
            finally:
                await listener.close()
                engine.close()


async def answer_whole(channel: Channel, path: Path) -> None:
    """As an engine does that has the blob, and lets it be kept."""
    assert isinstance((await channel.expect(Ask)).message, Ask)
    size = len(CONTENT)
    facts = Facts("blob", "hub.test", "team/app", DIGEST, 0, None, 0.0)
    headers = (("Content-Length", str(size)),)
    with path.open("rb") as file:
        blob = Blob(200, headers, size, (("", 0, size),), "", False, DIGEST, size, facts)
        channel.post(blob, file=file.fileno())


async def test_no_descriptor_left_to_keep_a_blob_with_is_no_reason_not_to_send_it(
    bound: socket.socket, netloc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not kept, its client gets it whole, and the engine hears the end: its file and its question are free."""

    def refused(_descriptor: int) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(room, "os", SimpleNamespace(dup=refused))
    path = tmp_path / "blob"
    path.write_bytes(CONTENT)
    pulling = await Pulling.start(netloc, PATH)
    accepted, _ = await asyncio.get_running_loop().sock_accept(bound)
    channel = Channel(accepted)
    channel.post(Hello())
    await answer_whole(channel, path)
    assert await pulling.rest() == CONTENT
    assert (await channel.expect(End)).message == End(len(CONTENT), None)
    again = await Pulling.start(netloc, PATH)
    await answer_whole(channel, path)
    assert await again.rest() == CONTENT
    channel.close()
