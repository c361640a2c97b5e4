"""The texts a config value may be, each read once into a typed value: sizes, times, shares, hosts, URLs, addresses.

Knows nothing of keys, files or models. Every function takes what YAML or the environment gave (text, whole
number, truth value or None) and returns the typed value, or raises ValueError with a reason a person can act on. A
reason never repeats the value, which could be a secret in the wrong place.
"""

import ipaddress
import math
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Final

SIZE: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?(B|[KMGT]i?B)", re.ASCII)
SIZE_UNITS: Final = {"B": 1} | {
    f"{letter}{infix}B": base**power
    for infix, base in (("", 1000), ("i", 1024))
    for power, letter in enumerate("KMGT", start=1)
}
TIME: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) ?(ms|s|m|h|d)", re.ASCII)
TIME_UNITS: Final = {
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}
PERCENT: Final = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%", re.ASCII)
DOMAIN: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*", re.ASCII)
AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^\[\]:/@?#\\\s]+)(?::(?P<port>[0-9]{1,5}))?")
HTTP_URL: Final = re.compile(r"(?P<scheme>https?)://(?P<authority>[^/]+)(?P<base>/.*)?", re.IGNORECASE)
URL_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*", re.ASCII)
HOST_MAX: Final = 255
WORKERS_MAX: Final = 256  # more than any machine has cores for; one digit too many must not fork for ever


def text(value: object) -> str:
    """Text without control characters. A whole number counts as the text it was written as."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise ValueError("must be text")  # noqa: TRY004 - what is collected is ValueError
    if not value or not value.isprintable():
        raise ValueError("must be text without control characters, and not empty")
    return value


def flag(value: object) -> bool:
    if value is True or value == "true":
        return True
    if value is False or value == "false":
        return False
    raise ValueError("must be true or false")


def whole(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,15}", value, re.ASCII):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise ValueError("must be a whole number, 0 or more")


def workers(value: object) -> int:
    number = whole(value)
    if number > WORKERS_MAX:
        raise ValueError(f"must be at most {WORKERS_MAX}")
    return number


def positive(value: object) -> int:
    number = whole(value)
    if number == 0:
        raise ValueError("must be 1 or more")
    return number


def size(value: object) -> int:
    """Bytes: a number and one of B KB MB GB TB KiB MiB GiB TiB."""
    match = SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"must be a size such as 50GiB: a number and one of {' '.join(SIZE_UNITS)}")
    return int(Fraction(match[1]) * SIZE_UNITS[match[2]])


def positive_size(value: object) -> int:
    size_bytes = size(value)
    if size_bytes == 0:
        raise ValueError("must be more than nothing")
    return size_bytes


@dataclass(frozen=True, slots=True)
class Share:
    """A size in bytes, or `percent` of the file system."""

    bytes: int | None = None
    percent: float | None = None

    def of(self, total_bytes: int) -> int:
        """Bytes, on a file system of `total_bytes`."""
        return self.bytes if self.bytes is not None else int(total_bytes * (self.percent or 0.0) / 100)

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent is not None else f"{self.bytes}B"


def share(value: object) -> Share:
    match = PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        try:
            return Share(bytes=size(value))
        except ValueError as cause:
            raise ValueError(f"{cause}, or a percentage such as 50%") from None
    percent = float(match[1])
    if percent > 100:
        raise ValueError("must be at most 100%")
    return Share(percent=percent)


def fraction(value: object) -> float:
    """A percentage as a number from 0 to 1."""
    match = PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None or float(match[1]) > 100:
        raise ValueError("must be a percentage such as 20%, at most 100%")
    return float(match[1]) / 100


def positive_share(value: object) -> Share:
    found = share(value)
    if found.bytes == 0 or found.percent == 0:
        raise ValueError("must be more than nothing")
    return found


def seconds_or_forever(value: object) -> float:
    """Seconds: a number and one of ms s m h d, or `forever` (infinity)."""
    if value == "forever":
        return math.inf
    match = TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("must be a time such as 30s: a number and one of ms s m h d, or forever")
    return float(Fraction(match[1]) * TIME_UNITS[match[2]])


def seconds(value: object) -> float:
    seconds_s = seconds_or_forever(value)
    if math.isinf(seconds_s):
        raise ValueError("must end: forever is not possible here")
    return seconds_s


def positive_seconds(value: object) -> float:
    seconds_s = seconds(value)
    if seconds_s == 0:
        raise ValueError("must be more than no time")
    return seconds_s


def path(value: object) -> Path:
    return Path(text(value)).expanduser()


def host(value: object) -> str:
    """A registry's name `HOST[:PORT]`: lower case, IDNA, without :443. No scheme, path or userinfo."""
    return _authority(text(value), default_port=443)


@lru_cache(1024)  # rules by the hundred thousand name the same few upstreams
def _authority(written: str, default_port: int) -> str:
    """`HOST[:PORT]`, normalised, without the default port. What two parsers could read in two ways is refused."""
    match = AUTHORITY.fullmatch(written.lower())
    if match is None:
        raise ValueError("must be HOST or HOST:PORT, without scheme, path or user")
    name, port = match["host"], int(match["port"] or default_port)
    if not 0 < port < 65536:
        raise ValueError("must have a port from 1 to 65535")
    name = f"[{ipaddress.IPv6Address(name[1:-1])}]" if name.startswith("[") else _domain(name)
    return name if port == default_port else f"{name}:{port}"


def _domain(name: str) -> str:
    try:
        ascii_name = name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        raise ValueError("must name a host") from None
    if len(ascii_name) > HOST_MAX or DOMAIN.fullmatch(ascii_name) is None:
        raise ValueError("must name a host: letters, digits, - and . between")
    last = ascii_name.rpartition(".")[2]
    if last.isdigit() or last.startswith("0x"):
        ipaddress.IPv4Address(ascii_name)  # 127.1, 0177.0.0.1 and 2130706433 are addresses to some parsers only
    return ascii_name


def http_url(value: object) -> str:
    """`http(s)://HOST[:PORT][/BASE]`, normalised: no userinfo, query, fragment, dot segments or closing slash."""
    written = text(value)
    match = HTTP_URL.fullmatch(written)
    if match is None:
        raise ValueError("must begin with https:// (or http://) and name a host")
    if "@" in match["authority"]:
        raise ValueError("must not hold a user or password: use credentials")
    if "?" in written or "#" in written:
        raise ValueError("must not have a query or fragment")
    scheme, base = match["scheme"].lower(), (match["base"] or "").rstrip("/")
    if URL_PATH.fullmatch(base) is None or {".", ".."} & set(base.split("/")):
        raise ValueError("has a path with empty, dotted or escaped parts")
    if base.endswith("/v2"):
        raise ValueError("must not end in /v2: it is added to every request")
    return f"{scheme}://{_authority(match['authority'], 443 if scheme == 'https' else 80)}{base}"


def host_or_network(value: object) -> str:
    """`HOST[:PORT]`, or a network `10.0.0.0/8`."""
    written = text(value)
    if "/" not in written:
        return host(written)
    try:
        return str(ipaddress.ip_network(written))
    except ValueError:
        raise ValueError("must be HOST, HOST:PORT or a network such as 10.0.0.0/8") from None


def network(value: object) -> str:
    """A network `10.0.0.0/8`, or one address of it."""
    try:
        return str(ipaddress.ip_network(text(value)))
    except ValueError:
        raise ValueError("must be a network such as 10.0.0.0/8, or an address") from None


def egress_proxy(value: object) -> str:
    """`env`, `none`, or the proxy's URL."""
    return str(value) if value in ("env", "none") else http_url(value)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: `host` and `port`, or the Unix socket `path`."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @classmethod
    def parse(cls, value: object) -> "Address":
        """Read `HOST:PORT`, `[IPV6]:PORT` or `unix:/PATH`; raises ValueError."""
        written = text(value)
        if written.startswith("unix:"):
            if not written.startswith("unix:/"):
                raise ValueError("must be unix: and an absolute path")
            return cls(path=Path(written.removeprefix("unix:")))
        name, colon, port = written.rpartition(":")
        if not colon or re.fullmatch(r"[0-9]{1,5}", port, re.ASCII) is None or int(port) > 65535:
            raise ValueError("must be HOST:PORT (port 0 to 65535) or unix:/PATH")
        bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
        if bare != name:
            bare = str(ipaddress.IPv6Address(bare))
        elif ":" in name:
            raise ValueError("must have an IPv6 address in brackets: [::1]:5090")
        elif DOMAIN.fullmatch(name.lower()) is None:
            raise ValueError("must be HOST:PORT (0.0.0.0 for all addresses) or unix:/PATH")
        return cls(host=bare, port=int(port))

    @property
    def is_local(self) -> bool:
        """Only this machine can reach it. `localhost` counts by its literal; other names may lead anywhere."""
        if self.path is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
