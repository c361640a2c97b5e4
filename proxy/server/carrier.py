"""Carries blobs to clients, at whichever address they ask; those of a digest that is blocked can be cut."""

from collections.abc import Callable

from aiohttp import web

from proxy.exchange import Exchange
from proxy.oci import Digest
from proxy.pull import Pull
from proxy.pulled import BlobAnswer
from proxy.rules import Route
from proxy.server.blobs import Outgoing, send_blob, send_out
from proxy.server.send import Body
from proxy.server.streams import Streams
from proxy.store.threads import Threads


class Carrier:
    """The road of a blob from `pull` to a client. `member` is what Cache-Status calls this server."""

    def __init__(self, member: str, pull: Pull, threads: Threads) -> None:
        self.member = member
        self.streams = Streams()
        self._pull = pull
        self._threads = threads

    async def answer(
        self,
        request: web.BaseRequest,
        route: Route,
        digest: Digest,
        exchange: Exchange,
        instead: Callable[[BlobAnswer], web.StreamResponse | None] = lambda _found: None,
    ) -> web.StreamResponse:
        """Answer a HEAD or GET of a blob, unless `instead` has an answer to what was found. Raises CisternError before
        the headers are out, ConnectionError after.
        """
        # Entered before the block list is looked at: a digest that is blocked from then on is cut.
        with self.streams.carrying(digest, lambda: exchange.status != 0):
            found = await self._pull.blob(route, digest, want_body=exchange.method == "GET")
            exchange.outcome = found.outcome
            try:
                response = instead(found)
                if response is None:
                    response = await self._carry(request, found, digest, exchange)
            finally:
                found.close()
        return response

    async def _carry(
        self, request: web.BaseRequest, found: BlobAnswer, digest: Digest, exchange: Exchange
    ) -> web.StreamResponse:
        async def send(outgoing: Outgoing, body: Body) -> web.StreamResponse:
            return await send_out(request, outgoing, body, self._threads, exchange)

        return await send_blob(request, found, digest, self.member, exchange, send)
