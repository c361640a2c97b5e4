"""A serving process: whatever ends its standing connection another one follows, and it may open what it needs."""

import asyncio
import errno
import io
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy import serve
from proxy.config import Address, parse
from proxy.processes import serving as room
from proxy.processes.serving import Serving, Sockets
from proxy.serve import FILES_BESIDE
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from proxy.workers.apart import DATA, REGISTRY
from proxy.workers.asking import IDLE_MAX, Engine
from proxy.workers.board import Board
from proxy.workers.channel import Channel, connect, listening
from proxy.workers.kept import FILES_MAX, Blob, Kept
from proxy.workers.words import Facts, Hello, Serve, Settings


@dataclass
class Allowed:
    """A process's limit of open files, as `resource` has it."""

    soft: int = 256
    RLIM_INFINITY = -1
    RLIMIT_NOFILE = 7

    def getrlimit(self, _kind: int) -> tuple[int, int]:
        return self.soft, self.RLIM_INFINITY

    def setrlimit(self, _kind: int, limits: tuple[int, int]) -> None:
        self.soft = limits[0]


def refused_at_first(*errors: OSError) -> Callable[[bytes], Channel]:
    waiting = list(errors)

    def tried(address: bytes) -> Channel:
        if waiting:
            raise waiting.pop()
        return connect(address)

    return tried


@pytest.mark.parametrize("doors", [(REGISTRY,), (REGISTRY, DATA)], ids=len)
async def test_the_files_of_each_address_of_what_is_kept_and_of_idle_channels_are_allowed(
    doors: tuple[str, ...], threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four for each connection, at each address so many of them: else the last ones to come would find none."""
    allowed = Allowed()
    monkeypatch.setattr(serve, "resource", allowed)
    with listening() as bound, socket.socket() as door:
        name = bytes(bound.getsockname())
        at = dict.fromkeys(doors, (Address("127.0.0.1", 0), door))
        serving = Serving(Sockets(1, at, name, Board()), threads)
        async with Tasks() as tasks:
            tasks.start(serving.stand(), name="stand")
            channel = await taken(bound)
            channel.post(Settings(1000, None, None, 1.0))
            await serving.settled.wait()
            channel.close()
    assert allowed.soft == 4 * 1000 * len(doors) + FILES_BESIDE + FILES_MAX + IDLE_MAX


@pytest.mark.parametrize(("listen", "connections"), [("", 1000), ("blobs: {listen: 127.0.0.1:0}\n", 2000)])
def test_one_process_has_the_connections_of_both_addresses(
    listen: str, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit counts for each of them."""
    allowed = Allowed()
    monkeypatch.setattr(serve, "resource", allowed)
    config = parse(f"limits: {{max_connections: 1000}}\n{listen}", "cistern.yaml", {})
    serve.allow_files(serve.connections_of(config))
    assert allowed.soft == 4 * connections + FILES_BESIDE


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNREFUSED])
async def test_a_refusal_of_the_kernel_leaves_no_process_deaf(number: int, threads: Threads) -> None:
    """Who is told of no block and no eviction would go on giving what is gone."""
    with listening() as bound, socket.socket() as door:
        name = bytes(bound.getsockname())
        serving = Serving(Sockets(7, {REGISTRY: (Address("127.0.0.1", 0), door)}, name, Board()), threads)
        serving.engine = Engine(name, connect=refused_at_first(OSError(number, "refused")))
        async with Tasks() as tasks:
            tasks.start(serving.stand(), name="stand")
            accepted, _ = await asyncio.get_running_loop().sock_accept(bound)
            channel = Channel(accepted)
            channel.post(Hello())
            assert (await channel.expect(Serve)).message == Serve(7)
            channel.close()


async def test_what_was_kept_before_a_standing_connection_is_held_by_none_after_it(
    threads: Threads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was deleted in between nobody told: its blocks would stay in use by a file that no client asks for."""
    board, path = Board(), tmp_path / "blob"
    path.write_bytes(b"content")
    kept = Kept(board)
    monkeypatch.setattr(room, "Kept", lambda _board: kept)
    with listening() as bound, socket.socket() as door:
        name = bytes(bound.getsockname())
        serving = Serving(Sockets(1, {REGISTRY: (Address("127.0.0.1", 0), door)}, name, board), threads)
        async with Tasks() as tasks:
            tasks.start(serving.stand(), name="stand")
            channel = await taken(bound)
            file = io.FileIO(path, "rb")
            facts = Facts("blob", "hub.test", "team/app", "d", board.changes, None, 0.0)
            kept.keep_blob("/blob", Blob(facts, file, 7, {}, 0.0))
            channel.close()
            channel = await taken(bound)
            assert file.closed
            channel.close()


async def taken(bound: socket.socket) -> Channel:
    """A standing connection, as an engine takes it."""
    accepted, _ = await asyncio.get_running_loop().sock_accept(bound)
    channel = Channel(accepted)
    channel.post(Hello())
    await channel.expect(Serve)
    return channel
