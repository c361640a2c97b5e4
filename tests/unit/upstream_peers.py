"""Small raw HTTP/1.1 servers on loopback for the upstream room's tests: they say exactly what a test wants said,
also what no honest server would, and write down what they were asked.
"""

import asyncio
import hashlib
import inspect
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from multidict import CIMultiDict

from proxy.config import Config
from proxy.oci import Digest
from proxy.rules import Source
from proxy.tasks import Tasks
from proxy.upstream.client import Clients
from proxy.upstream.session import UpstreamCall

NAME = "registry.test"
# Not all private, so the endpoint counts as public; nobody answers at the first address, the second one does.
PUBLIC = ("192.0.2.1", "127.0.0.1")
PRIVATE = ("127.0.0.1",)


@dataclass
class Asked:
    """One request as it stood on the wire."""

    method: str
    target: str
    headers: CIMultiDict[str]
    connection: int

    @property
    def authorization(self) -> str | None:
        return self.headers.get("Authorization")


@dataclass
class Reply:
    """An answer. `raw` replaces everything; `cut_after` ends the connection after so many bytes of the body; `gate`
    holds the body back; without `length` the body ends with the connection; `drip` is awaited before each part of it.
    """

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    length: bool = True
    raw: bytes | None = None
    cut_after: int | None = None
    gate: asyncio.Event | None = None
    gate_after: int = 0
    drip: Callable[[], Awaitable[None]] | None = None

    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} X", *(f"{name}: {value}" for name, value in self.headers)]
        if self.length and not any(name.lower() == "content-length" for name, _ in self.headers):
            lines.append(f"Content-Length: {len(self.body)}")
        if not self.length:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


Answer = Callable[[Asked], "Reply | Awaitable[Reply]"]


class Peer:
    """A server that answers by a function; `asked` is all it was asked, `connections` how often it was dialled."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.connections = 0
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()
        serving = list(self._serving)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http{'s' if self._tls else ''}://{host}:{self.port}"

    def targets(self) -> list[str]:
        return [asked.target for asked in self.asked]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = self.connections
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while (asked := await self._read(reader, connection)) is not None:
                self.asked.append(asked)
                found = self.answer(asked)
                reply = await found if inspect.isawaitable(found) else found
                if asked.method == "CONNECT" and reply.status == 200:
                    await self._tunnel(reader, writer, reply)
                    return
                if not await self._send(writer, reply, asked.method):
                    return
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()
            self._serving.discard(task)

    async def _read(self, reader: asyncio.StreamReader, connection: int) -> Asked | None:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = first.split(" ")
        headers = CIMultiDict[str]()
        for line in lines:
            name, _, value = line.partition(": ")
            headers.add(name, value)
        await reader.readexactly(int(headers.get("Content-Length", 0)))
        return Asked(method, target, headers, connection)

    async def _send(self, writer: asyncio.StreamWriter, reply: Reply, method: str) -> bool:
        """Write the reply; whether the connection goes on."""
        if reply.raw is not None:
            writer.write(reply.raw)
            await writer.drain()
            return False
        body = b"" if method == "HEAD" else reply.body
        if reply.drip is not None:
            return await self._drip(writer, reply, reply.drip)
        writer.write(reply.head() + body[: reply.gate_after if reply.gate else len(body)][: reply.cut_after])
        await writer.drain()
        if reply.gate is not None:
            await reply.gate.wait()
            writer.write(body[reply.gate_after :])
        await writer.drain()
        if not reply.length:
            writer.write_eof()
            await writer.drain()
        return reply.cut_after is None and reply.length

    async def _drip(self, writer: asyncio.StreamWriter, reply: Reply, pause: Callable[[], Awaitable[None]]) -> bool:
        writer.write(reply.head())
        step = len(reply.body) // 20
        for start in range(0, len(reply.body), step):
            await pause()
            writer.write(reply.body[start : start + step])
            await writer.drain()
        return True

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: Reply) -> None:
        """CONNECT: carry bytes to the port that the reply's body names."""
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(reply.body))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while chunk := await source.read(65536):
                target.write(chunk)
                await target.drain()

        async with Tasks() as tasks:
            ways = [
                tasks.start(carry(reader, far_writer), name="there", report=False),
                tasks.start(carry(far_reader, writer), name="back", report=False),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                far_writer.transport.abort()


class Resolver:
    """Names from a table, which a test may change; counts what it was asked."""

    def __init__(self, **names: Sequence[str]) -> None:
        self.names: dict[str, Sequence[str]] = {name.replace("_", "."): found for name, found in names.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host not in self.names:
            raise OSError(2, "no such name")
        return self.names[host]


class Hand:
    """A clock turned by hand."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def config(*endpoints: str, credentials: dict[str, Path] | None = None, limits: Any = None, **upstream: Any) -> Config:
    """A configuration of one upstream, `registry.test`; a credential set is its name and the file of its password."""
    sets = {name: {"username": "me", "password": {"file": str(path)}} for name, path in (credentials or {}).items()}
    timeouts = {"connect": "5s", "headers": "5s", "stall": "5s", **upstream.pop("timeouts", {})}
    return Config.parse(
        {
            "upstreams": {
                NAME: {
                    "endpoints": [{"url": url} for url in endpoints],
                    "plain_http": True,
                    "allow_insecure_credentials": True,
                    "proxy": "none",
                    "timeouts": timeouts,
                    **upstream,
                }
            },
            "credentials": sets,
            "limits": limits or {},
        }
    )


@asynccontextmanager
async def clients(settings: Config, **given: Any) -> AsyncIterator[Clients]:
    """The room under test, closed at the end, with no task left."""
    given.setdefault("resolver", Resolver())
    given.setdefault("environ", {})
    given.setdefault("rng", lambda: 0.0)  # no jitter
    async with Tasks() as tasks, Clients(settings, tasks, **given) as upstreams:
        yield upstreams


def source(repository: str = "library/nginx", credentials: str | None = None, endpoint: str | None = None) -> Source:
    return Source(NAME, repository, credentials, endpoint)


def digest_of(body: bytes) -> Digest:
    return Digest("sha256", hashlib.sha256(body).hexdigest())


async def receive(upstreams: Clients, digest: Digest, where: Source | None = None, **asked: Any) -> bytes:
    """A whole blob, as far as it comes."""
    async with upstreams.get_blob(where or source(), digest, **asked) as body:
        return b"".join([chunk async for chunk in body.chunks])


class Calls(list[UpstreamCall]):
    """An observer."""

    def __call__(self, call: UpstreamCall) -> None:
        self.append(call)

    def outcomes(self) -> list[tuple[str, str]]:
        return [(call.kind, call.outcome) for call in self]
