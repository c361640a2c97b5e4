"""The door of the registry address: so many connections and no more.

A connection over the limit gets one answer, 503 with Retry-After, and is closed; those inside are not disturbed.
"""

import asyncio
from collections.abc import Callable
from typing import Final
from weakref import WeakSet

from aiohttp import web

from proxy.errors import Overloaded
from proxy.exchange import Exchange
from proxy.outcome import Result
from proxy.server import respond
from proxy.server.connection import Connection
from proxy.server.door import Door
from proxy.server.lane import Message

RETRY_AFTER_S: Final = 2.0


class Gate:
    """Lets at most `limit()` connections through to `inner`. `observe` hears of those turned away."""

    def __init__(self, inner: Door, limit: Callable[[], int], *, observe: Callable[[Exchange], None]) -> None:
        self._inner = inner
        self._limit = limit
        self._observe = observe
        self._inside: WeakSet[asyncio.BaseTransport] = WeakSet()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._lets_in(request.protocol, request.transport):
            return await self._inner(request)
        exchange = Exchange(id="", client=request.remote or "", method=request.method)
        response = respond.failure(exchange, Overloaded(f"{self._limit()} clients are connected", RETRY_AFTER_S))
        exchange.end(Result.ERROR)
        self._observe(exchange)
        response.force_close()
        return response

    def at_once(self, message: Message, connection: Connection) -> bytes | None:
        """What the door has ready for who is let in."""
        if not self._lets_in(connection, connection.transport):
            return None
        return self._inner.at_once(message, connection)

    def _lets_in(self, connection: object, transport: asyncio.BaseTransport | None) -> bool:
        known = connection if isinstance(connection, Connection) else None
        if known is not None and known.is_inside:
            return True
        if not self._has_room(transport):
            return False
        if known is not None:
            known.is_inside = True
        return True

    def _has_room(self, transport: asyncio.BaseTransport | None) -> bool:
        if transport is None or transport in self._inside:
            return True
        if len(self._inside) >= self._limit():
            # A closed one may still be held by somebody's traceback.
            for closed in [inside for inside in self._inside if inside.is_closing()]:
                self._inside.discard(closed)
        if len(self._inside) >= self._limit():
            return False
        self._inside.add(transport)
        return True
