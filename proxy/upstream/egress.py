"""Which proxy, if any, leads to a URL: `proxy: env | none | URL` and the usual environment variables. Pure.

The rules of NO_PROXY are Go's (golang.org/x/net/http/httpproxy), since every other client of a registry on the same
host goes by them: names match with their subdomains, networks in CIDR form, an optional port, `*` for all, and
loopback is never sent to a proxy found in the environment. A proxy's userinfo goes into a header, never into a log.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from urllib.parse import unquote

from yarl import URL

from proxy.errors import ConfigInvalid
from proxy.upstream import addresses
from proxy.upstream.trust import host_of


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """Where to send a request, and the header that opens the door there."""

    url: URL
    authorization: str | None

    @classmethod
    def parse(cls, text: str) -> "Proxy":
        url = URL(text if "://" in text else f"http://{text}")
        if url.scheme not in ("http", "https") or not url.raw_host:
            raise ConfigInvalid(["proxy: must be env, none, or an http:// or https:// URL"])
        if url.raw_user is None:
            return cls(url.origin(), None)
        pair = f"{unquote(url.raw_user)}:{unquote(url.raw_password or '')}"
        return cls(url.origin(), "Basic " + base64.b64encode(pair.encode()).decode())

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.authorization is None else {"Proxy-Authorization": self.authorization}

    def __repr__(self) -> str:
        return f"Proxy({self.url})"


class Egress:
    """The way out of one upstream."""

    def __init__(self, setting: str, environ: Mapping[str, str]) -> None:
        self._fixed = None if setting in ("env", "none") else Proxy.parse(setting)
        self._by_scheme: dict[str, Proxy] = {}
        self._exempt: tuple[str, ...] = ()
        if setting != "env":
            return
        for scheme in ("http", "https"):
            text = _variable(environ, f"{scheme}_proxy") or _variable(environ, "all_proxy")
            # Under CGI, HTTP_PROXY is a request header ("httpoxy", CVE-2016-5385).
            if text and not (scheme == "http" and "REQUEST_METHOD" in environ):
                self._by_scheme[scheme] = Proxy.parse(text)
        self._exempt = tuple(
            entry.strip().lower() for entry in _variable(environ, "no_proxy").split(",") if entry.strip()
        )

    def proxy_for(self, url: URL) -> Proxy | None:
        """The proxy that leads to `url`, None for the direct way."""
        if self._fixed is not None:
            return self._fixed
        proxy = self._by_scheme.get(url.scheme)
        if proxy is None or _is_loopback(host_of(url)) or any(_exempts(entry, url) for entry in self._exempt):
            return None
        return proxy


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper()) or ""


def _is_loopback(host: str) -> bool:
    address = addresses.parse(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _exempts(entry: str, url: URL) -> bool:
    if entry == "*":
        return True
    host, address = host_of(url), addresses.parse(host_of(url))
    try:
        network = ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    else:
        return address is not None and address.version == network.version and address in network
    name, _, port = entry.rpartition(":")
    if name and port.isdigit():
        if int(port) != url.port:
            return False
        entry = name
    entry = entry.removeprefix("*").strip("[]").rstrip(".")
    suffix = entry if entry.startswith(".") else f".{entry}"
    return host == entry.strip("[]") or host.endswith(suffix)
