"""Names and certificates of the test world: a CA that nobody else trusts, and a directory of names to dial.

`Names` is both a resolver and a recorder: a name that no test placed is refused, and every look-up is kept (H04).
"""

import socket
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import trustme


class Authority:
    """A certificate authority for tests. `path` is its certificate as PEM, for clients that want a file."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA(organization_name="Cistern tests")
        self.path = directory / "test-ca.pem"
        self._ca.cert_pem.write_to_path(str(self.path))

    def server(self, *names: str) -> ssl.SSLContext:
        """A server's context with one certificate for all of `names` (host names or addresses)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        """A context that trusts this authority and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        return context

    def files(self, directory: Path, *names: str) -> tuple[Path, Path]:
        """A certificate chain and its key as files, for a server that is configured with paths."""
        issued = self._ca.issue_cert(*names)
        chain, key = directory / "tls.crt", directory / "tls.key"
        chain.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return chain, key


@dataclass(slots=True)
class Names:
    """Host name -> addresses: the resolver port of the dialler. `looked_up` lists what was asked, in order."""

    hosts: dict[str, list[str]] = field(default_factory=dict)
    looked_up: list[str] = field(default_factory=list)

    def place(self, host: str, *addresses: str) -> None:
        """Answer `host` with these addresses from now on; a second call moves it, as a rebinding name server does."""
        self.hosts[host] = list(addresses)

    async def resolve(self, host: str) -> list[str]:
        """The addresses of a host; an address is its own. Raises socket.gaierror for a name that was not placed."""
        self.looked_up.append(host)
        if host in self.hosts:
            return list(self.hosts[host])
        try:
            socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        except OSError:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} is not a name of this test") from None
        return [host]
