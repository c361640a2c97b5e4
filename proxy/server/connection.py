"""One client's connection, and all of them: how long a client may take, and who goes when there are too many.

aiohttp bounds the time between two requests only. Here a header has HEADER_S to be complete, an answer that waits in
our memory TAKE_S to be taken further, and past `limit` the connections that wait for their client longest are closed
(threats V44, T24). What ends so is counted, and told in one line a minute at most, whoever sends how many (V45).
Reads some of aiohttp's own fields, in this file alone, and puts a lane in its parser's place (server/lane.py):
tests/unit/test_connection.py and test_lane.py fail when they are gone.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import cached_property
from typing import Any, Final, cast

from aiohttp import web

from proxy.log import logger
from proxy.server import respond
from proxy.server.lane import Lane, Prompt
from proxy.server.stall import STALL_S, waiting

HEADER_S: Final = 10.0
TAKE_S: Final = STALL_S  # as for a blob's body
TIDY_S: Final = 1.0  # how often the two are looked at
TELL_S: Final = 60.0
ROOM: Final = 64  # of a crowd this part is closed at once, so that not every newcomer costs a look at all of them
TLS_HELLO: Final = b"\x16\x03"  # a handshake record: skopeo and podman try https first, and fall back (protocol C06)
NEWCOMER_S: Final = 1.0  # as long a connection has to ask before it can be one that waits
HARMLESS: Final = frozenset({"TLS_on_a_plain_port"})
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
log = logger("listen")


class Connection(web.RequestHandler):
    """One client's connection. What is no HTTP is refused in the registry's own words (protocol E01), and closed: its
    rest is never read as another request. `is_inside`: the gate has let it in, once for all of its requests.
    """

    def __init__(self, server: "Server", **options: Any) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **options)
        self._server = server
        self._parser: Any = Lane(self._parser, self, server.prompt)
        self.is_inside = False
        # aiohttp forgets the transport when it closes it, and that waits for a client that may never take the rest.
        self._held: asyncio.Transport | None = None
        self._is_tls = False
        self._has_ended = False  # the client sends no more; it may still read
        self._is_hello = False  # what came first is how TLS begins
        self._unsent = ((0, 0), 0.0)  # bytes in our memory and in the kernel, and since when so many
        self.made_at = server.monotonic()
        self.header_since: float | None = self.made_at  # when a header that is not complete began

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        self._held = cast("asyncio.Transport", transport)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._held = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        before = self._request_count
        if not before and not self._is_tls:
            self._is_hello = data.startswith(TLS_HELLO)
        was_idle = self._is_idle  # else it may be the rest of a body
        super().data_received(data)
        if self._request_count != before:
            self.header_since = None
        elif self.header_since is None and was_idle:
            self.header_since = self._server.monotonic()

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp says None; asyncio reads the answer
        """The client sends no more: one that shut down half of its connection still gets the answer that it waits for.

        It looks like one that left, so once the headers are out it counts as gone: who closes early is to be noticed
        then (protocol B08). TLS knows no half.
        """
        if self._has_ended:  # told again after each sendfile, which takes up reading
            return True
        request = self._current_request
        has_begun = request is not None and request.writer.output_size > 0
        if self._is_tls or has_begun or self._is_idle:
            return False
        self._has_ended = True
        if not self._messages:
            self._close = True  # aiohttp's: the answer that runs is the last one
        return True

    @property
    def _is_idle(self) -> bool:
        """Whether aiohttp's loop over the requests waits for the next one, or has not begun yet."""
        return self._request_count == 0 if self._waiter is None else not self._waiter.done()

    @cached_property
    def client(self) -> str:
        """The address it comes from, as aiohttp's requests tell it."""
        peer = self.peername
        return str(peer[0] if isinstance(peer, tuple) else peer or "")  # bytes: of an abstract Unix address

    @property
    def is_free(self) -> bool:
        """Whether an answer may leave now: nothing asked before waits for its own, or for its client to take it."""
        transport, waiter = self.transport, self._waiter
        return (
            waiter is not None
            and not waiter.done()
            and not self._messages
            and transport is not None
            and not transport.is_closing()
            and not self.unsent_bytes
        )

    def give(self, answer: bytes) -> None:
        """Send a whole answer to a request that aiohttp will not hear of; only while `is_free`."""
        if self.transport is not None:
            self.transport.write(answer)
        self._request_count += 1
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    @property
    def waits(self) -> bool:
        """Whether it is the client's turn: no request is here, and no answer on its way."""
        return self._is_idle and not self.unsent_bytes

    @property
    def is_open(self) -> bool:
        """Whether the client is there, or something of its answer still is."""
        return self._held is not None

    @property
    def unsent_bytes(self) -> int:
        """What of its answers waits here for the client to take."""
        if self._held is None:
            return 0
        # Under TLS the socket's own buffer is out of sight; while something is in it, the kernel is full.
        return self._held.get_write_buffer_size() or (waiting(self._held)[1] if self._is_tls else 0)

    @property
    def waiting_since(self) -> float:
        """What orders the waiting ones: when each was let in or got its last answer, in the loop's time."""
        return self._next_keepalive_close_time

    def overdue(self, now: float) -> str | None:
        """Why this connection is to be closed now, None if it may stay."""
        if self.waits and self._has_ended:
            return "half closed"
        if self.waits and self.header_since is not None and now - self.header_since > HEADER_S:
            return "unfinished header"
        if not self.unsent_bytes:
            self._unsent = ((0, 0), now)
        elif (unsent := waiting(self._held)) != self._unsent[0]:
            self._unsent = (unsent, now)
        return "answer not taken" if self._unsent[0] != (0, 0) and now - self._unsent[1] > TAKE_S else None

    def drop(self) -> None:
        """End it at once; what it has not been sent is not sent."""
        if self._held is not None:
            self._held.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp calls for a message it cannot parse, and for what a handler lets through."""
        if request.writer.output_size > 0:
            raise ConnectionError("the headers are out")
        if status < 500:
            self._server.note("TLS on a plain port" if self._is_hello else "not HTTP", request.remote)
        response = respond.malformed(status)
        response.force_close()
        return response


class Server(web.Server):
    """aiohttp's server, with connections of our own; a handler ends when its client leaves."""

    def __init__(
        self,
        handler: Handler,
        *,
        limit: int,
        monotonic: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self.prompt: Prompt | None = handler if isinstance(handler, Prompt) else None
        self.monotonic = monotonic
        self.limit = limit
        self._options = options
        self._endings: Counter[str] = Counter()
        self._last_client = ""
        self._told_at: float | None = None
        self._full_until = 0.0  # no look for room before: the last one found none
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self) -> Connection:
        return Connection(self, **self._options)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if len(self._connections) > self.limit:
            self.make_room()

    def make_room(self) -> None:
        """Close those that wait for their client longest; answers that run are not disturbed, and a newcomer is spared,
        who may be told a 503 then, unless twice as many are here.
        """
        now = self.monotonic()
        is_flood = len(self._connections) > 2 * self.limit
        if now < self._full_until and not is_flood:
            return
        latest = now if is_flood else now - NEWCOMER_S
        waiting = sorted(
            (one for one in self._ours() if one.waits and one.made_at <= latest), key=lambda one: one.waiting_since
        )
        if not waiting:
            self._full_until = now + TIDY_S
        for one in waiting[: self.limit // ROOM + 1]:
            self._end(one, "too many connections")

    def tidy(self) -> None:
        """Close what is overdue, and tell what was closed."""
        now = self.monotonic()
        for one in self._ours():
            if (why := one.overdue(now)) is not None:
                self._end(one, why)
        if self._endings and (self._told_at is None or now - self._told_at >= TELL_S):
            self._told_at = now
            tell = log.info if self._endings.keys() <= HARMLESS else log.warning
            tell("connections closed", last_client=self._last_client, **self._endings)
            self._endings.clear()

    def keep_tidy(self) -> None:
        """Do so every second, until `shutdown`."""
        self._timer = asyncio.get_running_loop().call_later(TIDY_S, self.keep_tidy)
        self.tidy()

    def note(self, why: str, client: str | None) -> None:
        """Count a connection that is closed by us, for the next line about them."""
        self._endings[why.replace(" ", "_")] += 1
        self._last_client = client or ""

    @property
    def has_unsent(self) -> bool:
        """Whether something of an answer is still here."""
        return any(one.unsent_bytes for one in self._ours())

    async def shutdown(self, timeout: float | None = None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await super().shutdown(timeout)

    def _ours(self) -> list[Connection]:
        return [one for one in self._connections if isinstance(one, Connection) and one.is_open]

    def _end(self, one: Connection, why: str) -> None:
        if why != "half closed":  # it got all it asked for
            peer = one.peername
            self.note(why, str(peer[0]) if isinstance(peer, tuple) else None)
        one.drop()
