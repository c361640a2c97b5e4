"""A listener that answers with what it was asked, and words said to it over a raw socket."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy.config import Address
from proxy.server.listen import Listener

LOOPBACK = Address("127.0.0.1", 0)
Listen = Callable[..., Awaitable[Listener]]


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """Answer with the path that the registry would parse."""
    return web.Response(body=request.rel_url.raw_path.encode(), headers={"X-Method": request.method})


def port_of(listener: Listener) -> int:
    return int(listener.url.rpartition(":")[2])


async def talk(listener: Listener, request: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """Send bytes and read until the server closes."""
    name = None if tls is None else "localhost"
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(listener), ssl=tls, server_hostname=name)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return b""
    finally:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


def get(target: str, *lines: str, host: str = "cache.local") -> bytes:
    head = [f"GET {target} HTTP/1.1", f"Host: {host}", *lines, "Connection: close", "", ""]
    return "\r\n".join(head).encode("latin-1")
