"""The one door out: names are resolved here, every address is checked by our own table, and exactly the checked
address is dialled. Knows no HTTP, no credentials.

aiohttp asks its resolver for names only, never for address literals, and resolves before it dials. So the check stands
twice: in the resolver (the whole answer) and in the socket factory (the very address of the very socket); a name that
changes its mind in between gains nothing (reliability V28..V30).
"""

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from cachetools import TTLCache

from proxy.errors import NO_DESCRIPTOR
from proxy.flights import Flights
from proxy.tasks import Tasks
from proxy.upstream import addresses
from proxy.upstream.addresses import Address, Kind

NAMES_MAX: Final = 1024
FOUND_FOR_S: Final = 30.0
MISSING_FOR_S: Final = 5.0
ADDRESSES_MAX: Final = 32
KEEPALIVE_S: Final = 60.0

AddrInfo = tuple[int, int, int, str, tuple[object, ...]]


class AddressRefused(OSError):
    """An address that this target may not lead to. An OSError, so that it passes through aiohttp unharmed."""

    def __init__(self, why: str) -> None:
        super().__init__(errno.EACCES, why)
        self.why = why


class Resolver(Protocol):
    """A name's addresses as text, in order of preference; OSError if there are none."""

    async def resolve(self, host: str) -> Sequence[str]: ...


class SystemResolver:
    """The system's resolver, in threads of its own: a dead name server must not stop the file work of others."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="dns")

    def close(self) -> None:
        """Let the threads go; one that still waits for a name server ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def resolve(self, host: str) -> Sequence[str]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, host)
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))

    @staticmethod
    def _ask(host: str) -> list[tuple[object, object, int, str, tuple[object, ...]]]:
        try:
            return list(socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG))
        except UnicodeError as cause:  # an empty or overlong label
            raise OSError(errno.EINVAL, "the name is no host name") from cause


class Names:
    """Resolved names, for a bounded time and number; one look-up at a time per name, failures kept shorter."""

    def __init__(self, resolver: Resolver, tasks: Tasks, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._resolver = resolver
        self._flights: Flights[str, tuple[Address, ...]] = Flights(tasks, "resolve")
        self._found: TTLCache[str, tuple[Address, ...]] = TTLCache(NAMES_MAX, FOUND_FOR_S, monotonic)
        self._missing: TTLCache[str, str] = TTLCache(NAMES_MAX, MISSING_FOR_S, monotonic)

    def __len__(self) -> int:
        return len(self._found) + len(self._missing)

    async def resolve(self, host: str) -> tuple[Address, ...]:
        """The addresses of `host`; OSError if it has none."""
        found = self._found.get(host)
        if found is not None:
            return found
        why = self._missing.get(host)
        if why is not None:
            raise OSError(errno.EHOSTUNREACH, why)
        return await self._flights.fly(host, lambda: self._ask(host))

    async def _ask(self, host: str) -> tuple[Address, ...]:
        try:
            texts = await self._resolver.resolve(host)
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:  # nobody was asked: that says nothing of the name
                raise
            self._missing[host] = f"the name cannot be resolved: {error.strerror or type(error).__name__}"
            raise
        found = tuple(address for text in texts[:ADDRESSES_MAX] if (address := addresses.parse(text)) is not None)
        if not found:
            self._missing[host] = "the name has no address"
            raise OSError(errno.EHOSTUNREACH, "the name has no address")
        self._found[host] = found
        return found


@dataclass(frozen=True, slots=True)
class Policy:
    """Which addresses one kind of target may have. `strict`: one refused address among several refuses the name, for
    an honest public name has no private address; else only the refused ones are left out.
    """

    admits: Callable[[Address], bool]
    strict: bool
    on_resolved: Callable[[str, Sequence[Address]], None] = lambda _host, _found: None

    def choose(self, host: str, found: Sequence[Address]) -> list[Address]:
        """The addresses to dial; raises AddressRefused."""
        admitted = [address for address in found if self.admits(address)]
        if not admitted or (self.strict and len(admitted) < len(found)):
            raise AddressRefused(f"{host} leads to an address it may not have")
        self.on_resolved(host, found)
        return admitted


def configured(address: Address) -> bool:
    """For hosts written in the configuration: any address but link-local and metadata ones."""
    return addresses.kind(address) is not Kind.NEVER


class CheckedResolver(AbstractResolver):
    """aiohttp's resolver port: our names, our policy."""

    def __init__(self, names: Names, policy: Policy) -> None:
        self._names = names
        self._policy = policy

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = self._policy.choose(host, await self._names.resolve(host.rstrip(".")))
        return [
            ResolveResult(hostname=host, host=str(address), port=port, family=family, proto=0, flags=0)
            for address in found
        ]

    async def close(self) -> None:
        """Nothing is held."""


def checked_socket(policy: Policy) -> Callable[[AddrInfo], socket.socket]:
    """A socket factory that refuses to make a socket for an address the policy does not admit."""

    def make(info: AddrInfo) -> socket.socket:
        family, kind, protocol, _name, sockaddr = info
        text = str(sockaddr[0])
        address = addresses.parse(text)
        if address is None or not policy.admits(address):
            raise AddressRefused(f"{text} is an address it may not have")
        return socket.socket(family, kind, protocol)

    return make


def connector(names: Names, policy: Policy, context: ssl.SSLContext) -> TCPConnector:
    """A connection pool that opens connections by `policy` only. Its own pool: nothing is shared across upstreams."""
    return TCPConnector(
        resolver=CheckedResolver(names, policy),
        use_dns_cache=False,
        socket_factory=checked_socket(policy),
        ssl=context,
        limit=0,
        keepalive_timeout=KEEPALIVE_S,
    )
