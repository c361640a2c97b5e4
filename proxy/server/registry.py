"""The registry address: one request in, one OCI answer out, one log line and one observation each.

HTTP only: what to answer is `pull`'s to know. Invariant: an error before the headers has its true status and OCI body;
after them the connection is dropped.
"""

import itertools
from collections.abc import Callable
from typing import Protocol

from aiohttp import hdrs, web

from proxy.downloads.bell import Bell
from proxy.errors import CisternError, MethodUnsupported, Overloaded, PathUnknown, RangeUnsatisfiable
from proxy.exchange import Exchange
from proxy.listings import Listings, Page
from proxy.log import logger
from proxy.outcome import Result
from proxy.paths import Call, Kind
from proxy.pull import Pull
from proxy.rules import Rules
from proxy.server import respond
from proxy.server.asked import Asked, Reading
from proxy.server.blobs import send_blob
from proxy.server.hot import Hot
from proxy.server.ranges import is_hopeless
from proxy.server.send import BodyDropped
from proxy.server.streams import Streams
from proxy.store.threads import Threads

log = logger("registry")


class Probes(Protocol):
    """What the probes on the registry port ask; status only."""

    def live(self) -> bool: ...

    def ready(self) -> bool: ...

    def rule(self, name: str) -> bool | None:
        """Whether this member can serve the rule; None if there is no such rule."""


class Registry:
    """The handler of the registry address. `observe` hears of every finished exchange."""

    def __init__(
        self,
        member: str,
        rules: Callable[[], Rules],
        pull: Pull,
        listings: Listings,
        probes: Probes,
        threads: Threads,
        *,
        observe: Callable[[Exchange], None],
    ) -> None:
        self._member = member
        self._rules = rules
        self._pull = pull
        self._listings = listings
        self._probes = probes
        self._threads = threads
        self._reading = Reading()
        self._hot = Hot(pull)
        self._observe = observe
        self._ids = itertools.count(1)
        self._running = 0
        self._ended = Bell()
        self.draining = False
        self.streams = Streams()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request. Raises ConnectionError to drop the connection."""
        exchange = Exchange(id=f"{next(self._ids):x}", client=request.remote or "", method=request.method)
        self._running += 1
        response: web.StreamResponse | None
        try:
            response = self._hot.find(request, self._rules(), exchange)
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
                raise BodyDropped(f"the cache's disk refuses: {error}") from error
            return respond.failure(exchange, Overloaded(f"the cache's disk refuses: {error.strerror or error}", 5.0))
        except Exception as error:
            log.exception("a request failed", id=exchange.id, error=repr(error))
            if exchange.status:
                raise BodyDropped("an internal error") from error
            return respond.failure(exchange, CisternError("an internal error; the log has its trace"))

    async def _answer(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        if request.rel_url.raw_path.startswith("/-/"):
            return self._probe(request.rel_url.raw_path, exchange)
        asked = self._reading.read(request, self._rules(), exchange)
        match asked.call.kind:
            case Kind.PING:
                return respond.small(exchange, b"{}", respond.COMMON | {"Content-Type": respond.JSON})
            case Kind.CATALOG:
                return self._page(exchange, await self._listings.catalog(asked.values), asked.path)
            case Kind.MANIFEST:
                return await self._manifest(request, asked, exchange)
            case Kind.BLOB:
                return await self._blob(request, asked.call, exchange)
            case _:
                return await self._list(asked, exchange)

    async def _list(self, asked: Asked, exchange: Exchange) -> web.StreamResponse:
        if asked.route is None:
            raise PathUnknown("no such registry path")
        if asked.call.kind is Kind.TAGS:
            page = await self._listings.tags(asked.route, asked.values)
        else:
            page = await self._listings.referrers(asked.route, asked.call.digest, asked.values)
        return self._page(exchange, page, asked.path)

    async def _manifest(self, request: web.BaseRequest, asked: Asked, exchange: Exchange) -> web.StreamResponse:
        if asked.route is None or asked.call.target is None:
            raise PathUnknown("no such registry path")
        found = await self._pull.manifest(asked.route, asked.call.target, want_body=exchange.method == "GET")
        exchange.outcome = found.outcome
        headers = respond.content_headers(found.descriptor.digest, found.descriptor.media_type)
        headers |= respond.common_headers(self._member, exchange)
        if respond.not_modified(request.headers.get(hdrs.IF_NONE_MATCH), found.descriptor.digest):
            return respond.small(exchange, b"", headers, 304)
        self._hot.keep(asked, found, headers, exchange)
        if found.body is None:
            return respond.described(exchange, found.descriptor.size, headers)
        return respond.small(exchange, found.body, headers)

    async def _blob(self, request: web.BaseRequest, call: Call, exchange: Exchange) -> web.StreamResponse:
        if exchange.route is None:
            raise PathUnknown("no such registry path")
        want_body = exchange.method == "GET"
        etag = f'"{call.digest}"'
        if want_body and is_hopeless(exchange.range, request.headers.get(hdrs.IF_RANGE), etag):
            raise RangeUnsatisfiable(await self._pull.known_size(exchange.route, call.digest))
        # Entered before the block list is looked at: a digest that is blocked from then on is cut.
        with self.streams.carrying(call.digest, lambda: exchange.status != 0):
            found = await self._pull.blob(exchange.route, call.digest, want_body=want_body)
            exchange.outcome = found.outcome
            try:
                return await send_blob(request, found, call.digest, self._member, self._threads, exchange)
            finally:
                found.close()

    def _page(self, exchange: Exchange, page: Page, path: str) -> web.StreamResponse:
        exchange.outcome = page.outcome
        headers = {"Content-Type": page.media_type} | respond.common_headers(self._member, exchange)
        if page.next_query is not None:
            headers["Link"] = f'<{path}?{page.next_query}>; rel="next"'  # relative: clients refuse another host (T03)
        if page.filters_applied is not None:
            headers["OCI-Filters-Applied"] = page.filters_applied
        return respond.small(exchange, page.body, headers)

    def _probe(self, path: str, exchange: Exchange) -> web.StreamResponse:
        """`/-/live`, `/-/ready`, `/-/rules/NAME`: a status for load balancers, and nothing else."""
        if exchange.method not in ("GET", "HEAD"):
            raise MethodUnsupported("probes are read with GET or HEAD")
        name = path.removeprefix("/-/rules/")
        good = self._probes.rule(name) if name != path else None
        if path == "/-/live":
            good = self._probes.live()
        elif path == "/-/ready":
            good = self._probes.ready()
        if good is None:
            raise PathUnknown("no such probe or rule")
        if not good:
            raise Overloaded("not ready")
        return respond.small(exchange, b"", respond.COMMON)
