"""A serving process: accepts clients on a socket of its own, and has nothing that another one would need.

It opens once an engine has told it the settings. Its clients are let go in one of two ways: TERM ends what is idle
soon, since no server follows; USR2 has a successor at the same socket, so each connection goes after its next answer.
"""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.collector import settle
from proxy.config import Address
from proxy.errors import CisternError
from proxy.exchange import Exchange, tell_request
from proxy.heap import allocator, keep_small
from proxy.log import Format, logger, server_log
from proxy.oci import Digest
from proxy.processes.children import Inherited
from proxy.serve import FILES_BESIDE, allow_files, orphaned
from proxy.server.certificate import Certificate, context_of
from proxy.server.gate import Gate
from proxy.server.listen import Listener, listen
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from proxy.workers.apart import REGISTRY
from proxy.workers.asking import IDLE_MAX, Engine
from proxy.workers.board import Board
from proxy.workers.channel import Channel
from proxy.workers.counts import Tally
from proxy.workers.front import Front
from proxy.workers.kept import FILES_MAX, Kept
from proxy.workers.wire import WireBroken
from proxy.workers.words import Counts, Cut, Flush, Forget, Serve, Settings

log = logger("serving")
COUNT_EVERY_S: Final = 1.0  # what was counted here reaches the engine within this
LINGER_S: Final = 0.3  # for requests on their way over kept connections: measured, dependencies.md section 12
LOOK_EVERY_S: Final = 0.05  # at connections that are left: each ends by its client
AGAIN_S: Final = 0.1  # from the end of a standing connection, or from a failure to make one, to the next


@dataclass(frozen=True, slots=True)
class Sockets:
    """What a serving process inherits: its number, its listening sockets by door, the engine's name, the board."""

    index: int
    doors: Mapping[str, tuple[Address, socket.socket]]
    engine: bytes
    board: Board


def run(sockets: Sockets, inherited: Inherited, *, log_format: Format) -> int:
    """Serve until the parent says otherwise, or is gone; the exit code. Raises CisternError or OSError."""
    with server_log(log_format, is_shared=True):
        return asyncio.run(serve(sockets, inherited))


async def serve(sockets: Sockets, inherited: Inherited) -> int:
    """The process's one coroutine."""
    stop, retire = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR2, retire.set)
    loop.add_reader(inherited.life, orphaned)
    async with AsyncExitStack() as stack:
        threads = await stack.enter_async_context(Threads())
        tasks = await stack.enter_async_context(Tasks())
        serving = Serving(sockets, threads)
        stack.callback(serving.engine.close)
        tasks.start(serving.stand(), name="stand")
        stopping = tasks.start(stop.wait(), name="stop")
        opening = tasks.start(serving.settled.wait(), name="settings")
        await asyncio.wait([stopping, opening], return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return 0
        for listener in await serving.open():
            stack.push_async_callback(listener.close)
        tasks.start(keep_small(allocator(), threads, asyncio.sleep), name="heap: keep small")
        settle()
        inherited.say("ready")
        retiring = tasks.start(retire.wait(), name="retire")
        await asyncio.wait([stopping, retiring], return_when=asyncio.FIRST_COMPLETED)
        await (serving.drain() if stop.is_set() else serving.retire(stop))
        await serving.tell()
    return 0


class Serving:
    """One serving process, over its sockets."""

    def __init__(self, sockets: Sockets, threads: Threads) -> None:
        self._sockets = sockets
        self.engine = Engine(sockets.engine)
        self._kept = Kept(sockets.board)
        self._tally = Tally()
        self._threads = threads
        self._fronts = {
            door: Front(
                door,
                self.engine,
                self._kept if door == REGISTRY else None,
                threads,
                observe=self._observe,
                heard=self._tally.hear,
                mark=f"{sockets.index}.{os.getpid()}-{'' if door == REGISTRY else f'{door}-'}",
            )
            for door in sockets.doors
        }
        self._listeners: list[Listener] = []
        self._certificate: Certificate | None = None
        self._standing: Channel | None = None
        self._told = -1  # connections
        self.settings: Settings | None = None
        self.settled = asyncio.Event()

    def _observe(self, exchange: Exchange) -> None:
        tell_request(exchange)
        self._tally.count(exchange)

    # The standing connection

    async def stand(self) -> None:
        """Keep a standing connection to whichever engine there is, until cancelled."""
        while True:
            try:
                await self._stand(await self.engine.greeted())
            except WireBroken as error:
                log.warning("the engine is not understood", error=str(error))
            except ConnectionError:
                pass
            except OSError as error:  # no descriptor is left, or no memory: that may pass
                log.warning("the engine cannot be reached", error=str(error))
            await asyncio.sleep(AGAIN_S)

    async def _stand(self, channel: Channel) -> None:
        """One standing connection, until it ends: by ConnectionError, or another OSError."""
        self._kept.forget(())  # of what was deleted before, this process may not have heard
        try:
            channel.post(Serve(self._sockets.index))
            self._standing = channel
            async with Tasks() as tasks:
                tasks.start(self._tell_on(), name="counts")
                await self._hear(channel)
        finally:
            self._standing = None
            channel.close()

    async def _hear(self, channel: Channel) -> None:
        while True:
            found = await channel.receive()
            found.drop()
            match found.message:
                case Settings() as settings:
                    await self._take(settings)
                case Cut(digests):
                    cut = [Digest.parse(digest) for digest in digests]
                    count = sum(front.streams.cut(cut) for front in self._fronts.values())
                    self._kept.forget(digests)
                    if count:
                        log.warning("streams of blocked digests were cut", streams=count)
                case Forget(digests):
                    self._kept.forget(digests)
                case Flush(number):
                    await self.tell(number)
                case other:
                    raise WireBroken(f"{type(other).__name__} is told by nobody")

    async def _tell_on(self) -> None:
        while True:
            await asyncio.sleep(COUNT_EVERY_S)
            await self.tell()

    async def tell(self, flushed: int = 0) -> None:
        """Tell the engine what was counted; what it is not there for is told to the next one."""
        connections = sum(listener.connections for listener in self._listeners)
        if not (flushed or self._tally or connections != self._told):
            return
        self._told = connections
        while (channel := self._standing) is not None and channel.is_open:
            cells, heard = self._tally.take()
            is_all = not self._tally
            await channel.send(Counts(cells, heard, connections, flushed if is_all else 0))
            if is_all:
                return

    async def _take(self, settings: Settings) -> None:
        self.settings = settings
        allow_files(settings.max_connections * len(self._sockets.doors), FILES_BESIDE + FILES_MAX + IDLE_MAX)
        for listener in self._listeners:
            listener.limit(settings.max_connections)
        if self._certificate is not None and settings.certificate and settings.key:
            try:
                context = await self._threads.disk(context_of, Path(settings.certificate), Path(settings.key))
                self._certificate.take(context)
            except (CisternError, OSError) as error:
                log.warning("the certificate cannot be read; the old one stays", error=str(error))
        self.settled.set()

    # Clients

    async def open(self) -> list[Listener]:
        """Let clients in. Raises CisternError or OSError."""
        settings = self.settings
        assert settings is not None  # noqa: S101 - `settled` was waited for
        if settings.certificate and settings.key:
            context = await self._threads.disk(context_of, Path(settings.certificate), Path(settings.key))
            self._certificate = Certificate(context)
        tls = None if self._certificate is None else self._certificate.front
        for door, (address, bound) in self._sockets.doors.items():
            gate = Gate(self._fronts[door], self._limit, observe=self._observe)
            # A web server that asks by a Unix socket speaks no TLS (config/nginx-data.conf).
            front = tls if door == REGISTRY or address.path is None else None
            listener = await listen(address, gate, front, max_connections=self._limit(), bound=bound)
            self._listeners.append(listener)
        return self._listeners

    def _limit(self) -> int:
        return 1 if self.settings is None else self.settings.max_connections

    @property
    def _drain_s(self) -> float:
        return 0.0 if self.settings is None else self.settings.drain_s

    async def drain(self) -> None:
        """Stop accepting and let running answers end, at most as long as the settings say. The data address goes last:
        who was sent there is on the way.
        """
        try:
            async with asyncio.timeout(self._drain_s):
                for front, listener in zip(self._fronts.values(), self._listeners, strict=True):
                    await listener.stop_accepting()
                    await front.drained()
                    await asyncio.sleep(LINGER_S)  # a request that was on its way has begun by then
                    await front.drained()
                for listener in self._listeners:  # not before both stopped
                    await listener.flushed()
        except TimeoutError:
            log.warning("drain ran out: running answers are cut")

    async def retire(self, stop: asyncio.Event) -> None:
        """Leave the socket to a successor: each connection ends after its next answer, all of them in bounded time."""
        for listener in self._listeners:
            await listener.stop_accepting()
        for front in self._fronts.values():
            front.draining = True
        end = time.monotonic() + self._drain_s
        await asyncio.sleep(LINGER_S)  # what was accepted a moment ago is not counted yet
        while any(listener.connections for listener in self._listeners):
            if stop.is_set() or time.monotonic() > end:
                break
            await asyncio.sleep(LOOK_EVERY_S)
        await self.drain()
