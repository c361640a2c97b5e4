"""A request read: its path and query, and where the rules lead it; remembered for the next one that is the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs

from aiohttp import hdrs, web

from proxy.errors import MethodUnsupported, NameInvalid, PathUnknown
from proxy.exchange import Exchange
from proxy.lately import Lately
from proxy.paths import Call, Kind, parse
from proxy.rules import Route, Rules

QUERY_MAX: Final = 4096
PARAMETERS_MAX: Final = 64
TARGET_MAX: Final = 1024  # characters of a request target that is remembered: what clients make up fills no memory
TARGETS_MAX: Final = 4096  # about 4 MB in both generations
UNROUTED: Final = (Kind.PING, Kind.CATALOG)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asks for and by which rules it was routed, before anything was awaited. `route` is None for what
    is about no repository.
    """

    target: str
    path: str
    call: Call
    values: Mapping[str, list[str]]
    rules: Rules
    route: Route | None

    @property
    def is_short(self) -> bool:
        """Whether it may be kept in memory."""
        return len(self.target) <= TARGET_MAX


class Reading:
    """Reads requests of the registry address. What was routed by other rules is forgotten at once: it would keep all of
    them in memory, and of 100 000 rules that is very much.
    """

    def __init__(self) -> None:
        self._rules: Rules | None = None
        self._lately: Lately[str, Asked] = Lately(TARGETS_MAX)

    def recall(self, target: str, rules: Rules) -> Asked | None:
        """What a request target asked for lately, under the same rules."""
        asked = self._lately.get(target)
        return asked if asked is not None and asked.rules is rules else None

    def read(self, request: web.BaseRequest, rules: Rules, exchange: Exchange) -> Asked:
        """What is asked for; the exchange learns it as far as it could be read.

        Raises MethodUnsupported, PathUnknown, NameInvalid, TagInvalid, DigestInvalid, NameUnknown or Denied.
        """
        if request.method not in ("GET", "HEAD"):
            raise MethodUnsupported(f"{request.method[:16]} is not served: this is a pull-through cache")
        exchange.range = request.headers.get(hdrs.RANGE)
        if rules is not self._rules:
            self._rules = rules
            self._lately.clear()
        asked = self._lately.get(request.raw_path)
        if asked is None:
            asked = _read(request, rules, exchange)
            if asked.is_short:
                self._lately.put(asked.target, asked)
            return asked
        exchange.kind = asked.call.kind.label
        exchange.name(asked.call.name, asked.call.target)
        exchange.route = asked.route
        return asked


def _read(request: web.BaseRequest, rules: Rules, exchange: Exchange) -> Asked:
    # Never rel_url.path: it is decoded. Never host: neither it nor an absolute form may choose a rule (V11).
    url = request.rel_url
    if url.raw_fragment:  # no client sends one; taken for nothing, it would make another name of this
        raise PathUnknown("no such registry path: a fragment is no part of a request")
    call = parse(url.raw_path)
    exchange.kind = call.kind.label
    exchange.name(call.name, call.target)
    values = parameters(url.raw_query_string)
    if call.kind not in UNROUTED:
        exchange.route = rules.route(call.name, namespace=_namespace(values), prefix=call.prefix)
    return Asked(request.raw_path, url.raw_path, call, values, rules, exchange.route)


def parameters(query: str) -> dict[str, list[str]]:
    """The query's parameters; raises NameInvalid for more than any client sends."""
    if len(query) > QUERY_MAX:
        raise NameInvalid(f"the query has more than {QUERY_MAX} characters")
    try:
        return parse_qs(query, keep_blank_values=True, max_num_fields=PARAMETERS_MAX)
    except ValueError as cause:
        raise NameInvalid(f"the query has more than {PARAMETERS_MAX} parameters") from cause


def _namespace(values: Mapping[str, list[str]]) -> str | None:
    """The one `ns` of a query; two would be a choice that nobody made."""
    named = values.get("ns", [])
    if len(named) > 1:
        raise NameInvalid("ns is given more than once")
    return named[0] if named else None
