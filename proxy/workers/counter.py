"""The engine's side of the counter: takes the questions of serving processes, and tells them what changes.

Each question has a connection of its own while it is answered; when that ends, so does the answer, as a client's own
connection would end it. One standing connection for each serving process carries what is told unasked.
"""

import asyncio
import itertools
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final, cast

from aiohttp import web

from proxy.log import logger
from proxy.oci import Digest
from proxy.tasks import Tasks
from proxy.workers.apart import Apart
from proxy.workers.channel import Channel, is_ours, pieces
from proxy.workers.question import Question
from proxy.workers.wire import WireBroken
from proxy.workers.words import Ask, Counts, Cut, Flush, Forget, Hello, Message, More, Serve, Settings, Small

log = logger("counter")
FLUSH_WITHIN_S: Final = 1.0  # a scrape waits so long for a serving process that does not answer
DIGESTS_MAX: Final = 1000  # of one message
PAUSE_S: Final = 0.1  # when no descriptor is left
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Counter:
    """The engine's counter. `doors` are the handlers by address, `counted` takes what serving processes counted,
    `blocked` tells what nobody may carry; all are set before it opens. Stands where one process has the listener of its
    clients.
    """

    def __init__(
        self,
        apart: Apart,
        settings: Callable[[], Settings],
        tasks: Tasks,
    ) -> None:
        self._listening = apart.listening
        self._board = apart.board
        self.doors: dict[str, Handler] = {}
        self.counted: Callable[[Counts], None] = lambda _counts: None
        self.blocked: Callable[[], Iterable[Digest]] = lambda: ()
        self._settings = settings
        self._tasks = tasks
        self._standing: dict[Channel, int] = {}  # and how many clients each one's process has
        self._numbers = itertools.count(1)
        self._flushed: dict[tuple[Channel, int], asyncio.Future[None]] = {}
        self._accepting: asyncio.Task[None] | None = None
        self.url, self.data_url = apart.url, apart.data_url

    @property
    def connections(self) -> int:
        """How many clients are connected, as the serving processes told last."""
        return sum(self._standing.values())

    def open(self) -> None:
        """Take what waits in line, from now on."""
        self._board.bump()  # an earlier engine's answers are this one's to give
        self._accepting = self._tasks.start(self._accept(), name="counter")

    def limit(self, _connections: int) -> None:
        """Another configuration is in force: every serving process hears of it."""
        self._board.bump()
        settings = self._settings()
        self._board.drain_s = settings.drain_s
        self.tell(settings)

    async def stop_accepting(self) -> None:
        """Nobody new is served; the line waits for the next engine."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.wait([self._accepting])

    async def flushed(self) -> None:
        """The clients' answers leave from other processes, which see to it."""

    async def close(self) -> None:
        await self.stop_accepting()

    # What is told unasked

    def changed(self) -> None:
        """An answer that was given may not stand any more."""
        self._board.bump()

    def forget(self, digests: Iterable[Digest]) -> None:
        """The content of these was deleted; of all, for none: no serving process may keep its file open."""
        self._board.bump()
        gone = tuple(map(str, digests))
        for start in range(0, max(1, len(gone)), DIGESTS_MAX):
            self.tell(Forget(gone[start : start + DIGESTS_MAX]))

    def cut(self, digests: Iterable[Digest]) -> None:
        """No answer may carry these digests any more."""
        self._board.bump()
        for message in _cuts(digests):
            self.tell(message)

    def tell(self, message: Message) -> None:
        """Tell every serving process. One that takes nothing loses its connection, and begins anew."""
        for channel in list(self._standing):
            with suppress(ConnectionError):
                channel.post(message)

    async def flush(self) -> None:
        """Have every serving process tell what it counted; one that does not answer in time is left out."""
        number, waiting = next(self._numbers), []
        for channel in self._standing:
            with suppress(ConnectionError):
                channel.post(Flush(number))
                self._flushed[channel, number] = future = asyncio.get_running_loop().create_future()
                waiting.append(future)
        try:
            if waiting:
                await asyncio.wait(waiting, timeout=FLUSH_WITHIN_S)
        finally:
            for key in [key for key in self._flushed if key[1] == number]:
                del self._flushed[key]

    # Who comes

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            accepted = None
            try:
                accepted, _ = await loop.sock_accept(self._listening)
                channel = self._let_in(accepted)
            except OSError as error:  # no descriptor left, or no room in the selector: whoever asks waits in line
                if accepted is not None:
                    accepted.close()
                log.warning("a serving process has to wait", error=str(error))
                await asyncio.sleep(PAUSE_S)
                continue
            if channel is not None:
                self._tasks.start(self._attend(channel), name="question")

    @staticmethod
    def _let_in(accepted: socket.socket) -> Channel | None:
        """The channel to who came, None for another user. OSError: the kernel refuses, and it stays the caller's."""
        if is_ours(accepted):
            return Channel(accepted)
        log.warning("another user knocks at the engine's socket")
        accepted.close()
        return None

    async def _attend(self, channel: Channel) -> None:
        task = asyncio.current_task()
        try:
            channel.post(Hello())
            while True:
                found = await channel.receive()
                found.drop()
                match found.message:
                    case Ask() as ask:
                        channel.on_lost = None if task is None else task.cancel
                        await self._answer(Question(ask, channel, self._board.changes))
                        channel.on_lost = None
                    case Serve():
                        await self._stand(channel)
                    case other:
                        log.error("a serving process asks what is no question", kind=type(other).__name__)
                        return
        except WireBroken as error:
            log.warning("a serving process is not understood", error=str(error))
        except ConnectionError:
            pass
        except asyncio.CancelledError:
            if channel.is_open:
                raise
        finally:
            channel.close()

    async def _stand(self, channel: Channel) -> None:
        """Keep the standing connection of a serving process."""
        self._standing[channel] = 0
        try:
            channel.post(self._settings())
            for message in _cuts(self.blocked()):  # it may have missed one
                channel.post(message)
            while True:
                counts = cast("Counts", (await channel.expect(Counts)).message)
                self._standing[channel] = counts.connections
                self.counted(counts)
                future = self._flushed.pop((channel, counts.flushed), None)
                if future is not None and not future.done():
                    future.set_result(None)
        finally:
            del self._standing[channel]
            for key, future in self._flushed.items():  # it will tell nothing any more
                if key[0] is channel and not future.done():
                    future.set_result(None)

    async def _answer(self, question: Question) -> None:
        handler = self.doors.get(question.ask.door)
        if handler is None:
            raise WireBroken(f"there is no {question.ask.door} here")
        response = await handler(cast("web.BaseRequest", question))
        if question.is_answered:
            return
        body = response.body if isinstance(response, web.Response) else None
        whole = body if isinstance(body, bytes | bytearray) else b""
        first, *rest = pieces(bytes(whole)) or [memoryview(b"")]
        headers = tuple(response.headers.items())
        await question.channel.send(Small(response.status, headers, len(whole), question.facts), first)
        for piece in rest:
            await question.channel.send(More(), piece)


def _cuts(digests: Iterable[Digest]) -> list[Cut]:
    """These digests as messages."""
    cut = tuple(map(str, digests))
    return [Cut(cut[start : start + DIGESTS_MAX]) for start in range(0, len(cut), DIGESTS_MAX)]
