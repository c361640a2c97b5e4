"""Where an upstream may lead us: the realms that may see a credential, the names a proxy may be asked for. Pure.

Works on the very `yarl.URL` that is dialled afterwards: nothing is parsed twice (reliability V13).
Invariant: a URL that passed has an ASCII host, no userinfo, no fragment, and the scheme http or https.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from yarl import URL

from proxy.upstream import addresses
from proxy.upstream.addresses import Address, Kind

URL_MAX: Final = 64 * 1024
# What no URL on the wire holds unescaped; each of them has once made a checker and a dialler disagree.
ODD: Final = re.compile(r"[^\x21-\x7e]|[\\<>\"^`{|}]")
AUTHORITY: Final = re.compile(r"^((?:https?:)?//)([^/?#]*)", re.IGNORECASE)
HOST: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_.])?|[0-9a-f:.]*:[0-9a-f:.]*")
# Second labels that registrars sell below (co.uk, com.au, or.jp), under any two-letter top level.
SHARED_LABELS: Final = frozenset(
    {
        "ac",
        "co",
        "com",
        "edu",
        "go",
        "gob",
        "gov",
        "id",
        "ltd",
        "me",
        "mil",
        "ne",
        "net",
        "nhs",
        "nic",
        "nom",
        "or",
        "org",
        "plc",
        "sch",
        "asn",
        "biz",
        "gen",
        "info",
        "police",
        "school",
        "web",
    }
)
# Names below which strangers are neighbours: clouds, forges, tunnels, a cluster's namespaces.
SHARED_SUFFIXES: Final = frozenset(
    {
        "azurecr.io",
        "azurewebsites.net",
        "cloudapp.net",
        "cloudapp.azure.com",
        "azureedge.net",
        "azurefd.net",
        "trafficmanager.net",
        "cloudfront.net",
        "awsapprunner.com",
        "pkg.dev",
        "gcr.io",
        "run.app",
        "appspot.com",
        "web.app",
        "firebaseapp.com",
        "cloudfunctions.net",
        "storage.googleapis.com",
        "github.io",
        "githubusercontent.com",
        "gitlab.io",
        "pages.dev",
        "workers.dev",
        "r2.dev",
        "vercel.app",
        "netlify.app",
        "herokuapp.com",
        "fly.dev",
        "onrender.com",
        "jfrog.io",
        "digitaloceanspaces.com",
        "ondigitalocean.app",
        "linodeobjects.com",
        "backblazeb2.com",
        "wasabisys.com",
        "ngrok.io",
        "ngrok.app",
        "ngrok-free.app",
        "trycloudflare.com",
        "loca.lt",
        "ts.net",
        "nip.io",
        "sslip.io",
        "duckdns.org",
        "dyndns.org",
        "no-ip.org",
        "ddns.net",
        "cluster.local",
        "svc.cluster.local",
        "compute.internal",
    }
)


# Below these, how many labels name a tenant differs from service to service: each host stands for itself.
MANY_TENANTS: Final = (".amazonaws.com", ".amazonaws.com.cn", ".windows.net")


class UrlOdd(ValueError):
    """A URL that is not followed, and why. Never holds the URL: it may carry a signature."""


@dataclass(frozen=True, slots=True)
class Trusted:
    """Hosts (with a port or any) and networks that the configuration names."""

    hosts: frozenset[tuple[str, int | None]]
    networks: tuple[IPv4Network | IPv6Network, ...]

    @classmethod
    def parse(cls, entries: Iterable[str]) -> "Trusted":
        """From `host`, `host:port`, `https://host`, an address, or a network in CIDR form."""
        hosts: set[tuple[str, int | None]] = set()
        networks: list[IPv4Network | IPv6Network] = []
        for entry in entries:
            try:
                networks.append(ip_network(entry.strip("[]"), strict=False))
            except ValueError:
                url = URL(entry if "://" in entry else f"//{entry}")
                hosts.add(((url.raw_host or "").lower().rstrip("."), url.explicit_port))
        return cls(frozenset(hosts), tuple(networks))

    def names(self, url: URL) -> bool:
        """Whether the configuration names this URL's host (and port), or the network of its address literal."""
        host = host_of(url)
        literal = addresses.parse(host)
        if literal is not None and self.holds(literal):
            return True
        return (host, None) in self.hosts or (host, url.port) in self.hosts

    def holds(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self.networks)


def host_of(url: URL) -> str:
    """The host as it is compared: lower case, no trailing dot, no brackets."""
    return (url.raw_host or "").lower().rstrip(".")


def same_origin(one: URL, other: URL) -> bool:
    return (one.scheme, host_of(one), one.port) == (other.scheme, host_of(other), other.port)


def parse_url(text: str, base: URL | None = None) -> URL:
    """A URL from an upstream's header, byte-exact behind the authority; relative to `base`. Raises UrlOdd."""
    if not text or len(text) > URL_MAX:
        raise UrlOdd("is empty" if not text else "is too long")
    if ODD.search(text.partition("#")[0]) is not None:
        raise UrlOdd("holds characters that no URL holds")
    # Encoded URLs keep their host's case: lower it here, the rest is kept byte for byte (signatures: protocol U14).
    lowered = AUTHORITY.sub(lambda match: match[0].lower(), text.partition("#")[0], count=1)
    try:
        url = URL(lowered, encoded=True)
        url = url if base is None or (url.scheme and url.raw_host) else base.join(url)
        port = url.port
    except ValueError as cause:
        raise UrlOdd("is not a URL") from cause
    if url.scheme not in ("http", "https"):
        raise UrlOdd("is neither http nor https")
    if url.raw_user is not None or url.raw_password is not None or "@" in url.raw_authority:
        raise UrlOdd("holds userinfo")
    if not port or HOST.fullmatch(url.raw_host or "") is None:
        raise UrlOdd("has no host that can be dialled")
    return url


def registrable(host: str) -> str | None:
    """The part of a name that one owner registered: two labels, three under a shared suffix; None for addresses and
    single labels. Narrower than the public suffix list: what it misses costs one line of `trusted_realms`.
    """
    labels = host.split(".")
    if addresses.parse(host) is not None or len(labels) < 2 or "" in labels or host.endswith(MANY_TENANTS):
        return None
    taken = 2
    while taken <= len(labels) and _is_shared(labels[-taken:]):
        taken += 1
    return ".".join(labels[-taken:]) if taken <= len(labels) else None


def _is_shared(labels: list[str]) -> bool:
    if len(labels) == 2 and len(labels[1]) == 2 and labels[0] in SHARED_LABELS:
        return True
    return ".".join(labels) in SHARED_SUFFIXES


def realm(text: str, origin: URL, trusted: Trusted) -> URL:
    """The realm of a challenge from `origin`, if it may be asked for tokens (protocol U07, CVE-2026-33540).

    It must be on the origin's host (any port: token servers beside a registry), on its registrable domain, or named by
    the configuration; over https unless the origin is http. Raises UrlOdd.
    """
    url = parse_url(text)
    if url.scheme == "http" and origin.scheme == "https":
        raise UrlOdd("is http while the registry is https")
    host, home = host_of(url), host_of(origin)
    if host == home or trusted.names(url):
        return url
    if addresses.parse(host) is not None:
        raise UrlOdd("is an address literal")
    domain = registrable(host)
    if domain is None or domain != registrable(home):
        raise UrlOdd("is on another domain")
    return url


def may_tunnel(url: URL) -> bool:
    """Whether a proxy, which resolves by itself, may be asked for a host we were led to: it must look public."""
    host = host_of(url)
    literal = addresses.parse(host)
    if literal is not None:
        return addresses.kind(literal) is Kind.PUBLIC
    labels = host.split(".")
    looks_numeric = labels[-1].isdigit() or labels[-1].startswith("0x")
    inside = {"localhost", "local", "internal", "localdomain", "lan", "intranet", "corp", "home", "private", "arpa"}
    return len(labels) > 1 and not looks_numeric and labels[-1] not in inside
