"""One address of the server for clients: one request in, one answer out, one log line and one observation each.

HTTP only. Invariant: an error before the headers has its true status and OCI body; after them the connection is
dropped.
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from aiohttp import web

from proxy.downloads.bell import Bell
from proxy.errors import CisternError, refused
from proxy.exchange import Exchange
from proxy.log import logger
from proxy.outcome import HIT, Result
from proxy.server import respond
from proxy.server.connection import Connection
from proxy.server.lane import Message
from proxy.server.ready import Prepared, Ready
from proxy.server.send import BodyDropped

log = logger("registry")


class Door(ABC):
    """The handler of an address. `observe` hears of every finished exchange; `mark` begins the ids of this address."""

    def __init__(self, *, observe: Callable[[Exchange], None], mark: str = "") -> None:
        self._observe = observe
        self._mark = mark
        self._ids = itertools.count(1)
        self._running = 0
        self._ended = Bell()
        self.draining = False

    @abstractmethod
    async def _answer(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        """Answer one request. Raises CisternError before the headers are out, ConnectionError after."""

    def _prepared(self, _method: str, _target: str, _headers: Mapping[str, str]) -> Prepared | None:
        """The answer that stands ready for this request of HTTP/1.1, None if there is none. Nothing is awaited."""
        return None

    def at_once(self, message: Message, connection: Connection) -> bytes | None:
        """A whole answer that stands ready, its exchange told; None if there is none."""
        found = None if self.draining else self._prepared(message.method, message.path, message.headers)
        if found is None:
            return None
        exchange = self._begin(connection.client, message.method)
        _repeat(found, exchange)
        exchange.end()
        self._observe(exchange)
        return found.answer()

    def _again(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse | None:
        """The same for a request whose turn came on the ordinary road."""
        if request.version < (1, 1):
            return None
        found = self._prepared(request.method, request.raw_path, request.headers)
        if found is None:
            return None
        _repeat(found, exchange)
        return Ready(found)

    def _name(self) -> str:
        return f"{self._mark}{next(self._ids):x}"

    def _begin(self, client: str, method: str) -> Exchange:
        """The exchange of a request that has just come."""
        return Exchange(id=self._name(), client=client, method=method)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Raises ConnectionError to drop the connection."""
        exchange = self._begin(request.remote or "", request.method)
        self._running += 1
        try:
            response = self._again(request, exchange)
            if response is None:
                response = await self._guarded(request, exchange)
            if self.draining:
                response.force_close()
        except ConnectionError as error:
            dropped = isinstance(error, BodyDropped)
            exchange.error = str(error) if dropped else None
            exchange.end(Result.ERROR if dropped else Result.LEFT)
            raise
        except BaseException:
            exchange.end(Result.LEFT)  # cancelled: the client is gone
            raise
        else:
            exchange.end(Result.ERROR if exchange.status >= 400 else None)
        finally:
            self._running -= 1
            self._ended.ring()
            self._observe(exchange)
        return response

    async def drained(self) -> None:
        """From now on every answer closes its connection; returns when no answer runs any more."""
        self.draining = True
        while self._running:
            await self._ended.wait()

    async def _guarded(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        try:
            return await self._answer(request, exchange)
        except CisternError as error:
            return respond.failure(exchange, error)
        except (ConnectionError, TimeoutError):
            raise
        except OSError as error:
            if exchange.status:
                raise BodyDropped(str(refused(error))) from error
            return respond.failure(exchange, refused(error))
        except Exception as error:
            log.exception("a request failed", id=exchange.id, error=repr(error))
            if exchange.status:
                raise BodyDropped("an internal error") from error
            return respond.failure(exchange, CisternError("an internal error; the log has its trace"))


def _repeat(found: Prepared, exchange: Exchange) -> None:
    found.tell(exchange)
    exchange.outcome, exchange.sent = HIT, len(found.body)
    exchange.begin(200)
