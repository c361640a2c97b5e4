"""The probes on the ports that clients use: `/-/live`, `/-/ready`, `/-/rules/NAME`; a status, and nothing else."""

from typing import Final, Protocol

from aiohttp import web

from proxy.errors import MethodUnsupported, Overloaded, PathUnknown
from proxy.exchange import Exchange
from proxy.server import respond

BELOW: Final = "/-/"


class Probes(Protocol):
    """What the probes on a client's port ask; status only."""

    def live(self) -> bool: ...

    def ready(self) -> bool: ...

    def rule(self, name: str) -> bool | None:
        """Whether this member can serve the rule; None if there is no such rule."""


def probe(probes: Probes, path: str, exchange: Exchange) -> web.StreamResponse:
    """The answer to a probe, for load balancers. Raises MethodUnsupported, PathUnknown, and Overloaded: not now."""
    if exchange.method not in ("GET", "HEAD"):
        raise MethodUnsupported("probes are read with GET or HEAD")
    name = path.removeprefix("/-/rules/")
    good = probes.rule(name) if name != path else None
    if path == "/-/live":
        good = probes.live()
    elif path == "/-/ready":
        good = probes.ready()
    if good is None:
        raise PathUnknown("no such probe or rule")
    if not good:
        raise Overloaded("not ready")
    return respond.small(exchange, b"", respond.COMMON)
