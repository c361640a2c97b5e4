"""What an upstream's answer says: its headers read strictly, its status as one of our errors. Pure.

Invariant: nothing leaves here that did not fit its grammar, so what is told to clients was checked (reliability T06).
"""

import re
import zlib
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

import orjson
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from proxy.errors import (
    DialRefused,
    DigestInvalid,
    Failure,
    UpstreamDenied,
    UpstreamFault,
    UpstreamLied,
    UpstreamNotFound,
    UpstreamThrottled,
    UpstreamUnavailable,
)
from proxy.oci import Digest, bare_media_type
from proxy.upstream import quota
from proxy.upstream.trust import UrlOdd, host_of, parse_url

Headers = CIMultiDictProxy[str] | CIMultiDict[str]

RETRY_AFTER_MAX_S: Final = 3600.0
MEDIA_TYPE: Final = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}", re.ASCII)
CONTENT_RANGE: Final = re.compile(r"bytes[ \t]+(?:(\d{1,19})-(\d{1,19})|\*)/(\d{1,19}|\*)", re.ASCII | re.IGNORECASE)
LENGTH: Final = re.compile(r"\d{1,19}", re.ASCII)
# No two parts of it may take the same characters: an upstream could write a header that is never read to its end.
LINK: Final = re.compile(r"<([^<>]*)>((?:[^\",<]|\"[^\"]*\")*)")
REL_NEXT: Final = re.compile(r";\s*rel\s*=\s*(?:\"(?:[^\"]*\s)?next(?:\s[^\"]*)?\"|next\b)", re.IGNORECASE)
PLAIN: Final = re.compile(r"[\x20-\x7e]{1,256}", re.ASCII)
# protocol U23: registries say "not found" in these codes, whatever status they pick.
NOT_FOUND_CODES: Final = frozenset(
    {"MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "NOT_FOUND", "NAME_INVALID", "TAG_INVALID", "404"}
)


def single(upstream: str, headers: Headers, name: str) -> str | None:
    """The one value of a header that may stand once; raises UpstreamLied if it contradicts itself."""
    values = {value.strip() for value in headers.getall(name, [])}
    if len(values) > 1:
        raise UpstreamLied(upstream, f"its answer has several {name} headers that differ")
    return values.pop() if values else None


def content_length(upstream: str, headers: Headers) -> int | None:
    """The length of the body, None if it is not told or says nothing of the content (chunked, encoded)."""
    text = single(upstream, headers, "Content-Length")
    if text is None or "Transfer-Encoding" in headers:
        return None
    if LENGTH.fullmatch(text) is None:
        raise UpstreamLied(upstream, "its Content-Length is no number")
    return int(text)


def content_range(upstream: str, headers: Headers) -> tuple[int | None, int | None, int | None]:
    """(first byte, last byte, size) of Content-Range; None for what `*` leaves open. Raises UpstreamLied."""
    match = CONTENT_RANGE.fullmatch(single(upstream, headers, "Content-Range") or "")
    if match is None:
        raise UpstreamLied(upstream, "its partial answer has no Content-Range that can be read")
    first, last, size = match.groups()
    whole = None if size == "*" else int(size)
    if first is None:
        return None, None, whole
    if int(first) > int(last) or (whole is not None and int(last) >= whole):
        raise UpstreamLied(upstream, "its Content-Range contradicts itself")
    return int(first), int(last), whole


def is_identity(upstream: str, headers: Headers) -> bool:
    encoding = single(upstream, headers, "Content-Encoding")
    return encoding is None or encoding.lower() in ("", "identity")


def media_type(upstream: str, headers: Headers) -> str | None:
    """The bare Content-Type; None for none or for what fits no grammar. HTML is no registry's answer: UpstreamLied."""
    bare = bare_media_type(single(upstream, headers, "Content-Type"))
    if bare in ("text/html", "application/xhtml+xml"):
        raise UpstreamLied(
            upstream, "it answered with a web page: that is no registry, or a login page stands before it"
        )
    return bare if bare is not None and MEDIA_TYPE.fullmatch(bare) else None


def digest(upstream: str, headers: Headers) -> Digest | None:
    """Docker-Content-Digest; None if missing or unreadable (the caller then hashes the body: protocol U19)."""
    text = single(upstream, headers, "Docker-Content-Digest")
    try:
        return None if text is None else Digest.parse(text)
    except DigestInvalid:
        return None


def plain(upstream: str, headers: Headers, name: str) -> str | None:
    """A header's short printable ASCII value, else None."""
    text = single(upstream, headers, name)
    return text if text is not None and PLAIN.fullmatch(text) else None


def retry_after(headers: Headers, now: float) -> float | None:
    """Retry-After in seconds, from 0 to an hour; None if there is none, or none that makes sense. A date is held
    against the answer's own Date where it has one: our clock (`now`, Unix time) may be wrong.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,18}(\.\d+)?", text, re.ASCII):
        return min(float(text), RETRY_AFTER_MAX_S)
    when = _date(text)
    if when is None:
        return None
    told_at = _date(headers.get("Date", "").strip())
    return min(max(when - (now if told_at is None else told_at), 0.0), RETRY_AFTER_MAX_S)


def _date(text: str) -> float | None:
    """An HTTP date as Unix time."""
    try:
        when = parsedate_to_datetime(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def next_query(upstream: str, headers: Headers, asked: URL) -> dict[str, str] | None:
    """The query of `Link: rel=next`, None without one. Only the query is used, and only if the link stays on the
    registry that was asked and on the same kind of list: raises DialRefused (reliability T13).
    """
    for line in headers.getall("Link", []):
        for target, parameters in LINK.findall(line[:8192]):
            if REL_NEXT.search(parameters):
                return _same_list(upstream, target, asked)
    return None


def _same_list(upstream: str, target: str, asked: URL) -> dict[str, str]:
    try:
        url = parse_url(target.strip(), asked)
    except UrlOdd as odd:
        raise DialRefused(upstream, f"the Link to its next page {odd}") from odd
    tail = "/tags/list" if asked.path.endswith("/tags/list") else f"/referrers/{asked.name}"
    if host_of(url) != host_of(asked) or url.port != asked.port or not url.path.endswith(tail):
        raise DialRefused(upstream, "the Link to its next page leads elsewhere")
    return dict(url.query)


def error_codes(body: bytes) -> set[str]:
    """The codes of an OCI error body, upper case; empty if it is none."""
    try:
        document = orjson.loads(body)
    except ValueError:
        return set()
    errors = document.get("errors") if isinstance(document, dict) else None
    if not isinstance(errors, list):
        return set()
    return {str(error.get("code", "")).upper() for error in errors if isinstance(error, dict)}


def _is_used_up(headers: Headers) -> bool:
    left = quota.read(headers)
    return left is not None and left.remaining == 0


def fault(
    upstream: str, status: int, headers: Headers, body: bytes, *, credentials: str | None, now: float
) -> UpstreamFault:
    """The error that an answer other than a success stands for (protocol 7c)."""
    error = _fault(upstream, status, headers, body, credentials, retry_after(headers, now))
    error.status = status
    return error


def _fault(
    upstream: str, status: int, headers: Headers, body: bytes, credentials: str | None, wait_s: float | None
) -> UpstreamFault:
    codes = error_codes(body)
    if status == 429 or (status in (401, 403) and "TOOMANYREQUESTS" in codes):
        # Docker Hub's pull limit says so in its JSON; its abuse limit is plain text (protocol U21).
        is_pull_limit = "TOOMANYREQUESTS" in codes and (b"pull rate limit" in body or _is_used_up(headers))
        what = "the pull limit is reached" if is_pull_limit else "it asks us to slow down"
        return UpstreamThrottled(upstream, f"{what} ({status})", wait_s, is_pull_limit=is_pull_limit)
    if status >= 500:
        return UpstreamUnavailable(upstream, f"it answered {status}", wait_s, failure=Failure.SERVER_ERROR)
    if status in (404, 410) or (status == 400 and codes & NOT_FOUND_CODES):
        return UpstreamNotFound(upstream, "it does not have this")
    if status in (401, 403, 451) or (status == 400 and codes & {"DENIED", "UNAUTHORIZED"}):
        who = "anonymous access" if credentials is None else f"the credentials {credentials}"
        return UpstreamDenied(upstream, f"it denies this to {who} ({status})", credentials=credentials)
    return UpstreamLied(upstream, f"it answered {status}, which makes no sense here")


def inflate(upstream: str, body: bytes, headers: Headers, limit: int) -> bytes:
    """An identity or gzip body as identity bytes, at most `limit` of them (reliability V35); raises UpstreamLied."""
    if is_identity(upstream, headers):
        return body
    if (single(upstream, headers, "Content-Encoding") or "").lower() not in ("gzip", "x-gzip"):
        raise UpstreamLied(upstream, "it encoded an answer that was asked for as it is")
    machine = zlib.decompressobj(wbits=31)
    try:
        plain_body = machine.decompress(body, limit + 1)
    except zlib.error as cause:
        raise UpstreamLied(upstream, "its gzip cannot be read") from cause
    if len(plain_body) > limit:
        raise UpstreamLied(upstream, f"its answer is larger than {limit} bytes")
    if not machine.eof or machine.unused_data:
        raise UpstreamLied(upstream, "its gzip is cut short, or something follows it")
    return plain_body
