"""What aiohttp and asyncio raise, translated at the border into our errors.

aiohttp's errors carry whole URLs, and those may be signed: they end here and are no cause of ours.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import aiohttp

from proxy.errors import (
    NO_DESCRIPTOR,
    DialRefused,
    Failure,
    UpstreamFault,
    UpstreamLied,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.upstream.dialler import AddressRefused

SOON_S: Final = 1.0  # a descriptor is free again when some answer ends


@contextmanager
def faults(upstream: str) -> Iterator[None]:
    """Translate what aiohttp and asyncio raise into our errors."""
    try:
        yield
    except TimeoutError:
        raise UpstreamTimeout(upstream, "it did not answer in time") from None
    except (aiohttp.ClientError, OSError) as error:
        raise _fault(upstream, error) from None


def _fault(upstream: str, error: Exception) -> UpstreamFault:
    inner = getattr(error, "os_error", error)
    why = getattr(inner, "strerror", None) or type(inner).__name__
    if isinstance(inner, AddressRefused):
        return DialRefused(upstream, f"not dialled: {inner.why}")
    if isinstance(error, aiohttp.InvalidURL):
        return DialRefused(upstream, "not dialled: its URL is none")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        why = f"its certificate is refused: {error.certificate_error}"
        return UpstreamUnavailable(upstream, why, failure=Failure.TLS)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return UpstreamUnavailable(upstream, f"TLS failed: {why}", failure=Failure.TLS)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return UpstreamUnavailable(upstream, f"the proxy on the way answered {error.status}")
    if isinstance(error, aiohttp.ClientResponseError):
        return UpstreamLied(upstream, "its answer is not valid HTTP")
    if isinstance(error, aiohttp.ClientPayloadError):
        return UpstreamUnavailable(upstream, "its answer was cut short", failure=Failure.CUT)
    return _connection_fault(upstream, error, getattr(inner, "errno", None), why)


def _connection_fault(upstream: str, error: Exception, number: int | None, why: str) -> UpstreamFault:
    if number in NO_DESCRIPTOR:  # met by the dialling itself, or by the look-up of a name
        why = f"not asked, this member is out of file descriptors: {why}"
        return UpstreamUnavailable(upstream, why, SOON_S, failure=Failure.DESCRIPTORS)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return UpstreamUnavailable(upstream, f"its name leads nowhere: {why}", failure=Failure.DNS)
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamUnavailable(upstream, f"it cannot be reached: {why}")
    return UpstreamUnavailable(upstream, f"the connection failed ({type(error).__name__})")
