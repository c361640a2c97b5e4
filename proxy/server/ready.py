"""An answer that stands ready as bytes: its head was made once, and only the lines of the moment are added.

aiohttp builds a header map for each response, adds to it and encodes it: 9 us of the 23 that its bare handler takes
(measured).
"""

import email.utils
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

from aiohttp import web

from proxy.exchange import Exchange

CLOSE: Final = b"Connection: close\r\n"


class _Dated:
    """The Date line; RFC 9110 has it in whole seconds."""

    second = 0
    line = b""


def date_line(seconds: float) -> bytes:
    """`Date: …` and its line end, made once a second."""
    whole = int(seconds)
    if whole != _Dated.second:
        _Dated.line = f"Date: {email.utils.formatdate(whole, usegmt=True)}\r\n".encode()
        _Dated.second = whole
    return _Dated.line


def head(status: int, headers: Mapping[str, str]) -> bytes:
    """Status line and header lines as they leave. ValueError: one of them cannot stand in a header."""
    for name, value in headers.items():
        if not (name.isprintable() and value.isprintable()):
            raise ValueError(f"not a header: {name}")
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "".join(f"{line}\r\n" for line in lines).encode()


class Prepared(NamedTuple):
    """What `head` made, Content-Length included, and the body, empty for HEAD. `tell` fills the exchange in."""

    head: bytes
    body: bytes
    tell: Callable[[Exchange], None]

    def answer(self, more: bytes = b"") -> bytes:
        """All of it, with header lines `more`."""
        return b"".join((self.head, date_line(time.time()), more, b"\r\n", self.body))


class Ready(web.StreamResponse):
    """One that leaves on aiohttp's road, in one write, for one request of HTTP/1.1."""

    def __init__(self, prepared: Prepared) -> None:
        # Not super().__init__: the header map and the state that it makes would never be looked at (0.3 us).
        self._prepared = prepared
        self._alive: bool | None = None

    @property
    def keep_alive(self) -> bool | None:
        return self._alive

    def force_close(self) -> None:
        self._alive = False

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send all of it. ConnectionError: the client left."""
        if self._alive is None:
            self._alive = request.keep_alive
        await request.writer.write(self._prepared.answer(b"" if self._alive else CLOSE))

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to send."""
