"""The data address: blobs for those who were sent here with a signed address, and nothing for anybody else.

A signature is looked at once, before anything else is: what is forged or has expired is told so, and no file, no record
and no upstream hears of it. Then the road is the registry address's own, with its rules and block list of this moment:
a blob that is not here yet is fetched, and flows while it grows.

A web server in front may send what is whole by itself (config/nginx-data.conf). It says where it has the blobs, in the
header ACCEL; for a plain GET of a whole blob it is then told the file's name there instead of its bytes.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aiohttp import hdrs, web

from proxy.errors import LinkRefused, MethodUnsupported
from proxy.exchange import Exchange
from proxy.oci import OCTETS, Digest
from proxy.outcome import REDIRECTED
from proxy.paths import Kind, parse
from proxy.pulled import BlobAnswer
from proxy.rules import Rules
from proxy.server import respond
from proxy.server.asked import parameters
from proxy.server.carrier import Carrier
from proxy.server.door import Door
from proxy.server.probes import BELOW, Probes, probe
from proxy.signing import Grant, Keys
from proxy.store.blocks import blob_path

ACCEL: Final = "X-Accel-Below"
BELOW_WHICH: Final = re.compile(r"/[A-Za-z0-9._/-]{0,200}/", re.ASCII)  # it comes back in a header
# What a web server judges by its own marks of a file, and not by the blob's: answered here.
CONDITIONAL: Final = (hdrs.IF_RANGE, hdrs.IF_NONE_MATCH, hdrs.IF_MATCH)


class Data(Door):
    """The handler of the data address."""

    def __init__(
        self,
        rules: Callable[[], Rules],
        probes: Probes,
        carrier: Carrier,
        keys: Keys,
        *,
        observe: Callable[[Exchange], None],
    ) -> None:
        super().__init__(observe=observe, mark="data-")
        self._rules = rules
        self._probes = probes
        self._carrier = carrier
        self._keys = keys

    async def _answer(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        url = request.rel_url
        if url.raw_path.startswith(BELOW):
            return probe(self._probes, url.raw_path, exchange)
        if request.method not in ("GET", "HEAD"):
            raise MethodUnsupported("blobs are read with GET or HEAD")
        exchange.range = request.headers.get(hdrs.RANGE)
        call = parse(url.raw_path)
        if call.kind is not Kind.BLOB:
            raise LinkRefused("only blobs are here: ask the registry address")
        exchange.kind = call.kind.label
        exchange.name(call.name, call.digest)
        values = parameters(url.raw_query_string)
        named = values.get("ns", [None])
        if len(named) > 1 or url.raw_fragment:
            raise LinkRefused("not an address that this cache has signed: ask the registry address")
        self._keys.check(Grant(call.prefix, named[0], call.name, call.digest), values)
        route = exchange.route = self._rules().route(call.name, namespace=named[0], prefix=call.prefix)
        below = _left_to(request)

        def instead(found: BlobAnswer) -> web.StreamResponse | None:
            if below is None or found.held is None or found.held.verdict is not None:
                return None
            return self._left(below, call.digest, exchange)

        return await self._carrier.answer(request, route, call.digest, exchange, instead)

    def _left(self, below: str, digest: Digest, exchange: Exchange) -> web.StreamResponse:
        """The name of a blob's file for the web server that asks, which makes an answer of it."""
        headers = respond.content_headers(digest, OCTETS) | respond.common_headers(self._carrier.member, exchange)
        exchange.outcome = REDIRECTED
        name = blob_path(Path(below), digest)
        return respond.small(exchange, b"", headers | {"X-Accel-Redirect": str(name)})


def _left_to(request: web.BaseRequest) -> str | None:
    """Where the web server in front has the blobs, if it can send what this request asks for as we would."""
    headers = request.headers
    below = headers.get(ACCEL)
    if below is None or request.method != "GET" or any(name in headers for name in CONDITIONAL):
        return None
    if "," in headers.get(hdrs.RANGE, "") or BELOW_WHICH.fullmatch(below) is None:
        return None
    return below
