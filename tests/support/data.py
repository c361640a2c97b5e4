"""The data address, asked by hand: where a redirect leads, followed as clients do or not at all."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.support.proxy import Reply
from tests.support.pulling import Pulling


@dataclass(frozen=True, slots=True)
class Asking:
    """A client of one address, HOST:PORT."""

    netloc: str

    async def start(self, target: str, *, method: str = "GET", **headers: str) -> Pulling:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await Pulling.start(self.netloc, target, method=method, headers=named)

    async def ask(self, target: str, *, method: str = "GET", **headers: str) -> Reply:
        """A request, to its end. Raises ConnectionError when the body was cut."""
        pulling = await self.start(target, method=method, **headers)
        body = await pulling.rest()
        return Reply(pulling.status, pulling.headers, body)


def target_of(reply: Reply) -> str:
    """Path and query of a redirect."""
    assert (reply.status, reply.headers["Cache-Control"]) == (307, "no-store"), reply
    found = urlsplit(reply.headers["Location"])
    return f"{found.path}?{found.query}"
