"""Which bytes of a blob a GET asks for. Pure.

RFC 9110 section 14, narrowed where clients differ (protocol B04 to B14): a ranged GET never gets a 200 unless If-Range
or a foreign unit says so, since nydus and containerd write a 200's bytes at the range's place.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from werkzeug.http import parse_range_header

from proxy.errors import RangeInvalid, RangeUnsatisfiable
from proxy.oci import SIZE_MAX, Span

RANGES_MAX: Final = 64
HEADER_MAX: Final = 8190


@dataclass(frozen=True, slots=True)
class Plan:
    """What to send of a blob: `spans` in the order asked for; `whole` for a 200; several are multipart/byteranges."""

    spans: tuple[Span, ...]
    whole: bool = False

    @property
    def length(self) -> int:
        return sum(span.length for span in self.spans)


def is_ranged(header: str | None) -> bool:
    """Whether a Range header is one of bytes: other units are ignored (RFC 9110 section 14.2)."""
    return header is not None and header.partition("=")[0].strip(" \t").lower() == "bytes"


def is_open_ended(header: str | None) -> bool:
    """Whether it is `bytes=N-`: containerd 2 asks so, reads a chunk and closes the connection."""
    return header is not None and is_ranged(header) and "," not in header and header.rstrip(" \t").endswith("-")


def plan(header: str | None, if_range: str | None, etag: str, size: int) -> Plan:
    """What a GET with these headers gets of a blob of `size` bytes.

    Raises RangeUnsatisfiable (416) when no byte of it exists or it is malformed, RangeInvalid (400) when it would
    amplify: too many or overlapping ranges. Ranges may stand in any order (RFC 9110 section 14.2).
    """
    whole = Plan((Span(0, size),), whole=True)
    if not is_ranged(header) or header is None or (if_range is not None and if_range.strip() != etag):
        return whole
    if len(header) > HEADER_MAX:
        raise RangeInvalid(f"a Range header of {len(header)} characters")
    asked = [item for item in header.partition("=")[2].split(",") if item.strip(" \t")]
    if len(asked) > RANGES_MAX:
        raise RangeInvalid(f"{len(asked)} ranges in one request; at most {RANGES_MAX} are served")
    spans = tuple(span for item in asked if (span := _span(item, size)) is not None)
    if not spans:
        raise RangeUnsatisfiable(size)
    ordered = sorted(spans, key=lambda span: span.start)
    if any(later.start < earlier.stop for earlier, later in pairwise(ordered)):
        raise RangeInvalid("overlapping ranges")
    return Plan(spans)


def is_hopeless(header: str | None, if_range: str | None, etag: str) -> bool:
    """Whether no blob of any size could serve this header, so that nobody need be asked. Raises RangeInvalid."""
    try:
        plan(header, if_range, etag, SIZE_MAX)
    except RangeUnsatisfiable:
        return True
    return False


def _span(item: str, size: int) -> Span | None:
    """One range within `size` bytes, None if it holds no byte; raises RangeUnsatisfiable for a malformed one."""
    # One at a time: of a whole list werkzeug refuses any that is not in ascending order.
    parsed = parse_range_header(f"bytes={item}")
    if parsed is None:
        raise RangeUnsatisfiable(size)
    start, stop = parsed.ranges[0]
    first = max(0, size + start) if start < 0 else start  # a suffix comes as a negative start
    last = size if stop is None else min(stop, size)
    return Span(first, last) if first < last else None


def content_range(span: Span, size: int) -> str:
    return f"bytes {span.start}-{span.stop - 1}/{size}"
