"""Who is sent to the data address for a blob, and for which blobs. Pure."""

import ipaddress
from dataclasses import dataclass
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Redirect:
    """Blobs of more than `over_bytes` are fetched from the data address `url` by clients in the networks `clients`."""

    url: str
    over_bytes: int
    clients: tuple[str, ...]

    def takes(self, client: str) -> bool:
        """Whether this client, an address as the socket tells it, is sent there. One without an address is not."""
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)  # how a socket of both families writes an IPv4 client
        return any((mapped or address) in network for network in _networks(self.clients))


@lru_cache(256)
def _networks(written: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, written))
