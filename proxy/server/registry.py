"""The registry address: what a client asks there, by kind. What to answer is `pull`'s to know.

A blob may be left to the data address: its client is answered with a signed address of it there, and comes to
`proxy.server.data`. HEAD and manifests never are: clients follow neither well (protocol B24).
"""

from collections.abc import Callable, Mapping

from aiohttp import hdrs, web

from proxy.errors import PathUnknown, RangeUnsatisfiable
from proxy.exchange import Exchange
from proxy.listings import Listings, Page
from proxy.outcome import REDIRECTED
from proxy.paths import Kind
from proxy.pull import Pull
from proxy.pulled import ManifestAnswer
from proxy.rules import Route, Rules
from proxy.server import respond
from proxy.server.asked import Asked, Reading
from proxy.server.carrier import Carrier
from proxy.server.door import Door
from proxy.server.hot import Hot
from proxy.server.probes import BELOW, Probes, probe
from proxy.server.ranges import is_hopeless
from proxy.server.ready import Prepared
from proxy.signing import Grant, Keys


class Registry(Door):
    """The handler of the registry address."""

    def __init__(
        self,
        member: str,
        rules: Callable[[], Rules],
        pull: Pull,
        listings: Listings,
        probes: Probes,
        carrier: Carrier,
        keys: Keys,
        *,
        observe: Callable[[Exchange], None],
    ) -> None:
        super().__init__(observe=observe)
        self._member = member
        self._rules = rules
        self._pull = pull
        self._listings = listings
        self._probes = probes
        self._carrier = carrier
        self._keys = keys
        self._reading = Reading()
        self._hot = Hot(pull)

    def _prepared(self, method: str, target: str, headers: Mapping[str, str]) -> Prepared | None:
        return self._hot.find(method, target, headers, self._rules())

    async def _answer(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        if request.rel_url.raw_path.startswith(BELOW):
            return probe(self._probes, request.rel_url.raw_path, exchange)
        asked = self._reading.read(request, self._rules(), exchange)
        match asked.call.kind:
            case Kind.PING:
                return respond.small(exchange, b"{}", respond.COMMON | {"Content-Type": respond.JSON})
            case Kind.CATALOG:
                return self._page(exchange, await self._listings.catalog(asked.values), asked.path)
            case Kind.MANIFEST:
                return await self._manifest(request, asked, exchange)
            case Kind.BLOB:
                return await self._blob(request, asked, exchange)
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
        self._keep(request, asked, found, headers, exchange)
        if found.body is None:
            return respond.described(exchange, found.descriptor.size, headers)
        return respond.small(exchange, found.body, headers)

    def _keep(
        self,
        _request: web.BaseRequest,
        asked: Asked,
        found: ManifestAnswer,
        headers: dict[str, str],
        exchange: Exchange,
    ) -> None:
        """Let an answer stand ready for the next one who asks the same."""
        self._hot.keep(asked, found, headers, exchange)

    async def _blob(self, request: web.BaseRequest, asked: Asked, exchange: Exchange) -> web.StreamResponse:
        if asked.route is None:
            raise PathUnknown("no such registry path")
        call, route = asked.call, asked.route
        if exchange.method == "GET":
            if is_hopeless(exchange.range, request.headers.get(hdrs.IF_RANGE), f'"{call.digest}"'):
                raise RangeUnsatisfiable(await self._pull.known_size(route, call.digest))
            if (location := await self._elsewhere(route, asked, exchange.client)) is not None:
                return self._moved(location, exchange)
        return await self._carrier.answer(request, route, call.digest, exchange)

    async def _elsewhere(self, route: Route, asked: Asked, client: str) -> str | None:
        """The address of a blob for this client, None if it is sent from here: a small one, or of unknown size."""
        redirect, call = route.redirect, asked.call
        if redirect is None or not self._keys.can_sign or not redirect.takes(client):
            return None
        size = await self._pull.size_to_send(route, call.digest)
        if size is None or size <= redirect.over_bytes or not self._keys.can_sign:
            return None
        namespace = asked.values.get("ns", [None])[0]
        return self._keys.address(redirect.url, Grant(call.prefix, namespace, call.name, call.digest))

    def _moved(self, location: str, exchange: Exchange) -> web.StreamResponse:
        exchange.outcome = REDIRECTED
        headers = respond.common_headers(self._member, exchange)
        return respond.small(exchange, b"", headers | {"Location": location, "Cache-Control": "no-store"}, 307)

    def _page(self, exchange: Exchange, page: Page, path: str) -> web.StreamResponse:
        exchange.outcome = page.outcome
        headers = {"Content-Type": page.media_type} | respond.common_headers(self._member, exchange)
        if page.next_query is not None:
            headers["Link"] = f'<{path}?{page.next_query}>; rel="next"'  # relative: clients refuse another host (T03)
        if page.filters_applied is not None:
            headers["OCI-Filters-Applied"] = page.filters_applied
        return respond.small(exchange, page.body, headers)
