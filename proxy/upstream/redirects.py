"""Where a redirect leads, decided before anything is dialled. Pure; the Location is kept byte for byte, since signed
URLs break when they are quoted anew (protocol U11..U15). Which addresses may be dialled is the dialler's business.
"""

from collections.abc import Sequence
from typing import Final

from yarl import URL

from proxy.errors import DialRefused, UpstreamLied
from proxy.upstream.answers import Headers, single
from proxy.upstream.trust import UrlOdd, parse_url

STATUSES: Final = frozenset({301, 302, 303, 307, 308})
HOPS_MAX: Final = 10


def next_hop(upstream: str, trail: Sequence[URL], headers: Headers) -> URL:
    """The URL behind the last one of `trail`; raises UpstreamLied (loop, too many, no Location) or DialRefused."""
    location = single(upstream, headers, "Location")
    if location is None:
        raise UpstreamLied(upstream, "its redirect names no Location")
    if len(trail) > HOPS_MAX:
        raise UpstreamLied(upstream, f"it redirects more than {HOPS_MAX} times")
    try:
        url = parse_url(location, trail[-1])
    except UrlOdd as odd:
        raise DialRefused(upstream, f"the URL it redirects to {odd}") from None
    if url.scheme == "http" and any(hop.scheme == "https" for hop in trail):
        raise DialRefused(upstream, "it redirects from https to http")
    if url in trail:
        raise UpstreamLied(upstream, "it redirects in a loop")
    return url
