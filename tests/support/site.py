"""A scripted server: one TCP port of its own, every request recorded, faults by target; `Registry` builds on it.

Invariant: `requests` holds a record for each request whose head arrived, in order, before its answer begins.
"""

import ssl
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

from aiohttp import web

from proxy.oci import Digest
from tests.support import script
from tests.support.wire import Answer, Fault, Gate, Recorded, send

HEADERS_MAX = 64 * 1024
Target = Digest | str


@dataclass(slots=True)
class Script:
    """Faults for the requests of one target and these methods; `left` counts down to none, None is for ever."""

    target: str
    faults: tuple[Fault, ...]
    methods: tuple[str, ...]
    left: int | None
    seen: int = field(default=0)

    def fits(self, request: Recorded) -> bool:
        """`*` is every path, `/…` one path, anything else the last component: a tag or a digest."""
        if self.left == 0 or request.method not in self.methods:
            return False
        if self.target.startswith("/"):
            return request.path == self.target
        return self.target in ("*", request.path.rpartition("/")[2])


class Site(ABC):
    """Listens on loopback, on the same port again after `stop` and `start`. `tls` makes it https.

    `name` stands in its URLs in place of the address; whoever dials must be told where it is (`Names`).
    """

    def __init__(
        self, *, name: str | None = None, address: str = "127.0.0.1", tls: ssl.SSLContext | None = None
    ) -> None:
        self.address = address
        self.host = name or address
        self.requests: list[Recorded] = []
        self.most_at_once = 0
        self._at_once = 0
        self._tls = tls
        self._port = 0
        self._runner: web.ServerRunner | None = None
        self._scripts: list[Script] = []
        self._gates: list[Gate] = []

    @property
    def port(self) -> int:
        assert self._port, "the site has not been started"
        return self._port

    @property
    def url(self) -> str:
        """SCHEME://HOST:PORT, no slash behind."""
        return f"{'http' if self._tls is None else 'https'}://{self.host}:{self.port}"

    @property
    def netloc(self) -> str:
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen; the first time on a free port."""
        assert self._runner is None, "the site runs already"
        server = web.Server(
            self._respond,
            handler_cancellation=True,
            access_log=None,
            max_line_size=HEADERS_MAX,
            max_field_size=HEADERS_MAX,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=0.05)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, self._port, ssl_context=self._tls).start()
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Break every connection and refuse new ones; what stands at a gate is ended too."""
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # Scripting

    def script(
        self, target: Target, *faults: Fault, times: int | None = None, methods: tuple[str, ...] = ("GET",)
    ) -> Script:
        """Answer the next `times` requests (None: all) for a target with these faults. A later script comes first."""
        made = Script(str(target), faults, methods, times)
        self._scripts.insert(0, made)
        return made

    def hold(self, target: Target, after_bytes: int = 0, *, times: int | None = None) -> Gate:
        """Stop the bodies of a target after so many bytes, until the gate is opened."""
        stop = Gate()
        self._gates.append(stop)
        self.script(target, script.gate(stop, after_bytes), times=times)
        return stop

    def hold_headers(
        self, target: Target, *, times: int | None = None, methods: tuple[str, ...] = ("GET", "HEAD")
    ) -> Gate:
        """Take the requests of a target, and answer nothing until the gate is opened."""
        stop = Gate()
        self._gates.append(stop)
        self.script(target, script.gate_headers(stop), times=times, methods=methods)
        return stop

    def heal(self) -> None:
        """Forget every script and open every gate."""
        self._scripts.clear()
        for stop in self._gates:
            stop.open()
        self._gates.clear()

    # What was asked

    def recorded(self, target: Target, method: str | None = "GET") -> list[Recorded]:
        """The requests for a target; `method` None is any. Those that were only challenged (401) are among them."""
        wanted = Script(str(target), (), (), None)
        found = []
        for request in self.requests:
            wanted.methods = (request.method if method is None else method,)
            found += [request] if wanted.fits(request) else []
        return found

    def requests_for(self, target: Target, method: str = "GET") -> int:
        """How often a target was asked for; a request that was answered by a challenge does not count."""
        return sum(request.status != 401 for request in self.recorded(target, method))

    def bytes_for(self, target: Target) -> int:
        """How many body bytes left for a target."""
        return sum(request.sent_bytes for request in self.recorded(target))

    def forget(self) -> None:
        """Count from here on."""
        self.requests.clear()

    # Answering

    @abstractmethod
    async def answer(self, request: Recorded) -> Answer:
        """The honest answer."""

    def challenge(self, request: Recorded) -> Answer | None:
        """An answer for a request that lacks its authorization; scripts do not touch it. None: go on."""
        return None

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        target = request.raw_path  # request.path is decoded and normalised: a signature must be told from its like
        path, _, _query = target.partition("?")
        peer = request.transport.get_extra_info("peername") if request.transport is not None else None
        record = Recorded(request.method, unquote(path), target, dict(request.query), request.headers, peer=peer)
        self.requests.append(record)
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            record.body = await request.read()
            answer = self.challenge(record)
            if answer is None:
                answer = await self.answer(record)
                for fault in self._faults(record):
                    answer = fault(answer)
            return await send(request, answer, record)
        finally:
            self._at_once -= 1

    def _faults(self, request: Recorded) -> tuple[Fault, ...]:
        for made in self._scripts:
            if made.fits(request):
                made.seen += 1
                made.left = None if made.left is None else made.left - 1
                return made.faults
        return ()
