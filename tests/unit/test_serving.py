"""A serving process's standing connection: whatever ends it, another one follows."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from proxy.config import Address
from proxy.processes.serving import Serving, Sockets
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from proxy.workers.apart import REGISTRY
from proxy.workers.asking import Engine
from proxy.workers.board import Board
from proxy.workers.channel import Channel, connect, listening
from proxy.workers.words import Hello, Serve


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    async with Threads(disk=1, hashing=1) as pools:
        yield pools


def refused_at_first(*errors: OSError) -> Callable[[bytes], Channel]:
    waiting = list(errors)

    def tried(address: bytes) -> Channel:
        if waiting:
            raise waiting.pop()
        return connect(address)

    return tried


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
