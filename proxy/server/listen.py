"""Sockets in: binds an address (TCP, TLS or a Unix path) to a handler, stops accepting at once, and drains.

aiohttp's own graceful shutdown drops requests (measured: dependencies.md section 12), so stopping has two steps:
`stop_accepting`, and, once running answers have ended, `close`.
"""

import asyncio
import errno
import logging
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from proxy.config import Address
from proxy.server.connection import HEADER_S, Handler, Server

BACKLOG: Final = 4096
KEEP_ALIVE_S: Final = 150.0  # longer than the idle pools of clients: containerd 30 s, Go 90 s, BuildKit 120 s (B25)
HEADER_MAX: Final = 64 << 10
LOOK_EVERY_S: Final = 0.05
SHUTDOWN_S: Final = 0.1  # for answers that still run when `close` is called; 0 would mean "for ever" to aiohttp
# aiohttp logs a traceback for each malformed request and each client that left; what matters is logged by the edge.
SILENT: Final = logging.getLogger("cistern.aiohttp")
SILENT.disabled = True
CONNECTIONS_MAX: Final = 1000  # where the configuration has no say: admin address and control socket


class Site(web.SockSite):
    """aiohttp's site with a bound for the TLS handshake, as long as a header has, and an end that drops nobody."""

    async def start(self) -> None:
        await web.BaseSite.start(self)
        server = self._runner.server
        if server is None:
            raise RuntimeError("the runner is not set up")
        self._server = await asyncio.get_running_loop().create_server(
            server,
            sock=self._sock,
            ssl=self._ssl_context,
            backlog=self._backlog,
            ssl_handshake_timeout=None if self._ssl_context is None else HEADER_S,
        )

    async def stop(self) -> None:
        """Whom the kernel has let in already is let in here as well: a closed server of asyncio's would fail an
        assertion over each connection that it accepted in the same turn of the loop, and reset it (3.11).
        """
        server = self._server
        if isinstance(server, asyncio.Server):
            loop = asyncio.get_running_loop()
            for heard in server.sockets:
                loop.remove_reader(heard.fileno())
            await asyncio.sleep(0)  # what was accepted becomes a connection
        await super().stop()


class Listener:
    """One bound address. `connections` is how many clients are connected now."""

    def __init__(self, runner: web.ServerRunner, site: web.BaseSite, url: str, server: Server) -> None:
        self._runner = runner
        self._site = site
        self._server = server
        self.url = url

    @property
    def connections(self) -> int:
        return len(self._server.connections)

    def tidy(self) -> None:
        """Close the connections that are overdue; happens every second by itself."""
        self._server.tidy()

    def limit(self, connections: int) -> None:
        """From now on so many clients may be connected at once."""
        self._server.limit = connections

    async def stop_accepting(self) -> None:
        if self._site in self._runner.sites:  # a second stop is no error
            await self._site.stop()

    async def flushed(self) -> None:
        """Wait until every answer that was made has left our memory: its client takes it, or is dropped."""
        while self._server.has_unsent:  # noqa: ASYNC110 - no transport tells when its buffer is empty
            await asyncio.sleep(LOOK_EVERY_S)

    async def close(self) -> None:
        await self._runner.cleanup()


async def listen(
    address: Address,
    handler: Handler,
    tls: ssl.SSLContext | None = None,
    *,
    max_connections: int = CONNECTIONS_MAX,
    monotonic: Callable[[], float] = time.monotonic,
    bound: socket.socket | None = None,
) -> Listener:
    """Bind `address`, unless it is `bound` already, and serve `handler` on it; past `max_connections` the idle ones go
    first (server/connection.py).

    OSError: the address is taken or not ours. Port 0 picks a free one.
    """
    server = Server(
        handler,
        limit=max_connections,
        monotonic=monotonic,
        logger=SILENT,
        access_log=None,
        keepalive_timeout=KEEP_ALIVE_S,
        max_line_size=HEADER_MAX,
        max_field_size=HEADER_MAX,
        tcp_keepalive=True,
        auto_decompress=False,  # no request's body is inflated, read or not (V35, V36)
    )
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        if bound is None:
            bound = bind(address)
        url = url_of(address, bound, is_tls=tls is not None)
        try:
            site = Site(runner, bound, ssl_context=tls, backlog=BACKLOG)
            await site.start()
        except BaseException:
            bound.close()
            raise
    except BaseException:
        await runner.cleanup()
        raise
    server.keep_tidy()
    return Listener(runner, site, url, server)


def url_of(address: Address, bound: socket.socket, *, is_tls: bool) -> str:
    """How a bound address is named."""
    if address.path is not None:
        return f"unix:{address.path}"
    host, port = bound.getsockname()[:2]
    return f"{'https' if is_tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def bind(address: Address) -> socket.socket:
    """A socket bound to an address, not listening yet. OSError: it is taken or not ours."""
    return _bind_unix(address.path) if address.path is not None else _bind(address.host, address.port)


def bind_shared(address: Address, count: int) -> list[socket.socket]:
    """So many sockets at one TCP address, among which the kernel spreads its clients, listening already. Port 0 picks
    one free port for all. OSError: as `bind`.
    """
    bound: list[socket.socket] = []
    try:
        for _ in range(count):
            port = bound[0].getsockname()[1] if bound else address.port
            bound.append(_bind(address.host, port, is_shared=True))
        for one in bound:  # all at once: none of them waits for clients alone
            one.listen(BACKLOG)
    except BaseException:
        for one in bound:
            one.close()
        raise
    return bound


def _bind(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    family, kind, protocol, _name, where = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(where)
    except OSError:
        bound.close()
        raise
    return bound


def _bind_unix(path: Path) -> socket.socket:
    """A Unix socket, mode 0600 from its first moment; a stale one of a dead server is replaced, and nothing else is."""
    if _is_stale(path):
        path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        bound.bind(str(path))
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(before)
    return bound


def _is_stale(path: Path) -> bool:
    """Whether `path` is a socket that nobody listens on. OSError: somebody does."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)  # a server whose backlog is full is alive as well
        try:
            caller.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return True
        except BlockingIOError:
            pass
    raise OSError(errno.EADDRINUSE, f"another server listens on {path}")
