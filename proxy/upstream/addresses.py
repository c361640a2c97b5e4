"""What kind of place an IP address is: our own table, since `ipaddress` calls NAT64 and 6to4 forms of the metadata
address global, and 100.64/10 not private (CVE-2026-44430, reliability V29). Pure.

Invariant: an address that carries another one (v4-mapped, NAT64, 6to4, Teredo) is never kinder than what it carries.
"""

import enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

Address = IPv4Address | IPv6Address


class Kind(enum.IntEnum):
    """From the kindest to the worst; the worst of several decides."""

    PUBLIC = 0
    PRIVATE = 1  # loopback, RFC 1918, CGNAT, ULA, site-local: a host of the house
    RESERVED = 2  # documentation, benchmarks, translation prefixes, future use: no registry lives there
    NEVER = 3  # link-local, metadata services, multicast: nobody may be sent there, not even by the configuration


# IANA special-purpose registries (RFC 6890 and updates); metadata addresses from the clouds' own documents.
TABLE: Final[tuple[tuple[str, Kind], ...]] = (
    ("169.254.0.0/16", Kind.NEVER),  # link-local; metadata of AWS, Azure, GCP, OpenStack, ECS, Tencent
    ("100.100.100.200/32", Kind.NEVER),  # Alibaba metadata
    ("192.0.0.192/32", Kind.NEVER),  # Oracle metadata
    ("168.63.129.16/32", Kind.NEVER),  # Azure wire server
    ("224.0.0.0/4", Kind.NEVER),
    ("255.255.255.255/32", Kind.NEVER),
    ("0.0.0.0/8", Kind.PRIVATE),  # Linux dials loopback for it
    ("10.0.0.0/8", Kind.PRIVATE),
    ("100.64.0.0/10", Kind.PRIVATE),
    ("127.0.0.0/8", Kind.PRIVATE),
    ("172.16.0.0/12", Kind.PRIVATE),
    ("192.168.0.0/16", Kind.PRIVATE),
    ("192.0.0.0/24", Kind.RESERVED),
    ("192.0.2.0/24", Kind.RESERVED),
    ("192.31.196.0/24", Kind.RESERVED),
    ("192.52.193.0/24", Kind.RESERVED),
    ("192.88.99.0/24", Kind.RESERVED),
    ("192.175.48.0/24", Kind.RESERVED),
    ("198.18.0.0/15", Kind.RESERVED),
    ("198.51.100.0/24", Kind.RESERVED),
    ("203.0.113.0/24", Kind.RESERVED),
    ("240.0.0.0/4", Kind.RESERVED),
    ("fe80::/10", Kind.NEVER),
    ("ff00::/8", Kind.NEVER),
    ("fd00:ec2::/32", Kind.NEVER),  # AWS metadata, time, DNS, pod identity
    ("fd20:ce::/32", Kind.NEVER),  # GCP metadata
    ("::/127", Kind.PRIVATE),  # unspecified and loopback
    ("fc00::/7", Kind.PRIVATE),
    ("fec0::/10", Kind.PRIVATE),  # site-local, deprecated
)
# Only 2000::/3 is given out (RFC 4291, IANA); inside it, what is not the public net. The rest of the space is reserved.
GIVEN_OUT: Final = IPv6Network("2000::/3")
RESERVED_V6: Final = tuple(
    IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3ffe::/16", "3fff::/20")
)
NAT64: Final = IPv6Network("64:ff9b::/96")
LOCAL_NAT64: Final = IPv6Network("64:ff9b:1::/48")
SIX_TO_FOUR: Final = IPv6Network("2002::/16")
TEREDO: Final = IPv6Network("2001::/32")
MAPPED: Final = IPv6Network("::ffff:0:0/96")
CARRIERS: Final = (MAPPED, NAT64, IPv6Network("::ffff:0:0:0/96"), IPv6Network("::/96"))

_V4: Final = tuple((IPv4Network(text), kind) for text, kind in TABLE if ":" not in text)
_V6: Final = tuple((IPv6Network(text), kind) for text, kind in TABLE if ":" in text)


def parse(text: str) -> Address | None:
    """An address from its canonical text (a zone is cut off), None if it is a name."""
    try:
        return ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None


def kind(address: Address) -> Kind:
    """What kind of place `address` is."""
    if isinstance(address, IPv4Address):
        return next((kind for network, kind in _V4 if address in network), Kind.PUBLIC)
    for network, listed in _V6:
        if address in network:
            return listed
    carried = _carried(address)
    if address in MAPPED or address in NAT64:
        # The kernel or the network's NAT64 dials the IPv4 address inside: on IPv6-only hosts that is the normal road.
        return kind(carried[0])
    worst = max((kind(inner) for inner in carried), default=Kind.PUBLIC)
    if worst is Kind.NEVER:
        return Kind.NEVER
    if address not in GIVEN_OUT or any(address in network for network in RESERVED_V6):
        return Kind.RESERVED
    return Kind.PUBLIC


def _carried(address: IPv6Address) -> list[IPv4Address]:
    """Every IPv4 address that `address` may stand for."""
    bits = int(address)
    low = IPv4Address(bits & 0xFFFFFFFF)
    if any(address in network for network in CARRIERS):
        return [low]
    if address in SIX_TO_FOUR:
        return [IPv4Address(bits >> 80 & 0xFFFFFFFF)]
    if address in TEREDO:
        return [IPv4Address(bits >> 64 & 0xFFFFFFFF), IPv4Address(~bits & 0xFFFFFFFF)]
    if address in LOCAL_NAT64:
        # RFC 6052 section 2.2: the prefix in use may be 48, 56, 64 or 96 long; bits 64 to 71 are left out.
        return [low, *(_embedded(bits, length) for length in (48, 56, 64))]
    return []


def _embedded(bits: int, prefix: int) -> IPv4Address:
    """The IPv4 address behind a NAT64 prefix of `prefix` bits, octet 8 skipped (RFC 6052 section 2.2)."""
    octets = bits.to_bytes(16, "big")
    start = prefix // 8
    picked = [octet for place, octet in enumerate(octets) if place >= start and place != 8][:4]
    return IPv4Address(bytes(picked))
