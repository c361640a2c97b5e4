"""TLS towards upstreams: one context for all that name no authority of their own, and one for each that does.

Frozen: a reload reads anew and gets another one, in which what did not change is the same object. Blocks while reading.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from proxy.errors import ConfigInvalid
from proxy.upstream.settings import UpstreamSettings


@dataclass(frozen=True, slots=True)
class Contexts:
    """`own` has the upstreams with a `tls.ca`: the bytes of that file, and the context made of them."""

    default: ssl.SSLContext
    own: Mapping[str, tuple[bytes, ssl.SSLContext]]

    def of(self, upstream: str) -> ssl.SSLContext:
        return self.own[upstream][1] if upstream in self.own else self.default


def read(upstreams: Mapping[str, UpstreamSettings], before: Contexts | None = None) -> Contexts:
    """The contexts of these upstreams; what `before` has and is unchanged is taken from there. Raises ConfigInvalid."""
    own: dict[str, tuple[bytes, ssl.SSLContext]] = {}
    for name, settings in upstreams.items():
        if settings.tls.ca is None:
            continue
        pem = _bytes_of(settings.tls.ca)
        kept = None if before is None else before.own.get(name)
        own[name] = kept if kept is not None and kept[0] == pem else (pem, _context(settings.tls.ca, pem))
    return Contexts(_default(), own)


@cache
def _default() -> ssl.SSLContext:
    """One for the process: reading the roots of the system takes some 20 ms (measured)."""
    return tls_context()


def tls_context() -> ssl.SSLContext:
    """Verified TLS 1.2 or later by the system's roots."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as cause:
        raise _unreadable(path) from cause


def _context(path: Path, pem: bytes) -> ssl.SSLContext:
    """The system's roots, and those of `pem` beside them."""
    context = tls_context()
    try:
        context.load_verify_locations(cadata=pem.decode("ascii", "replace"))
    except (ValueError, ssl.SSLError) as cause:
        raise _unreadable(path) from cause
    return context


def _unreadable(path: Path) -> ConfigInvalid:
    return ConfigInvalid([f"{path}: tls.ca: no certificates can be read from it"])
