"""Answers without a streamed body: headers that every answer carries, OCI error bodies, small bodies.

Content types are set bare: aiohttp's own helpers append a charset, which registry clients compare as text (X02, M05).
"""

import math
from collections.abc import Mapping
from typing import Final

import orjson
from aiohttp import web
from werkzeug.http import parse_etags

from proxy.errors import (
    CisternError,
    MethodUnsupported,
    RangeUnsatisfiable,
    UpstreamDenied,
    UpstreamThrottled,
    answer,
    upstream_status,
)
from proxy.exchange import Exchange
from proxy.oci import Digest
from proxy.outcome import cache_status, stale_headers

COMMON: Final = {"Docker-Distribution-Api-Version": "registry/2.0", "Server": "Cistern"}
JSON: Final = "application/json"
MISSING: Final = {"manifest": "MANIFEST_UNKNOWN", "blob": "BLOB_UNKNOWN"}
MESSAGE_MAX: Final = 1000
RETRY_AFTER_S: Final = 5.0  # told with a 429 or 503 when nobody knows better


def common_headers(member: str, exchange: Exchange) -> dict[str, str]:
    """What every successful answer carries beside its own headers."""
    headers = dict(COMMON)
    if exchange.outcome is not None:
        headers["Cache-Status"] = cache_status(member, exchange.outcome)
        headers |= stale_headers(exchange.outcome)
    if exchange.route is not None and exchange.route.namespace is not None:
        headers["OCI-Namespace"] = exchange.route.namespace
    return headers


def content_headers(digest: Digest, media_type: str) -> dict[str, str]:
    return {"Content-Type": media_type, "Docker-Content-Digest": str(digest), "ETag": f'"{digest}"'}


def not_modified(header: str | None, digest: Digest) -> bool:
    """If-None-Match: quoted, weak, a list or `*` as RFC 9110 has them, and unquoted as some registry clients do."""
    if header is None:
        return False
    return header.strip() == str(digest) or parse_etags(header).contains_weak(str(digest))


def small(exchange: Exchange, body: bytes, headers: Mapping[str, str], status: int = 200) -> web.Response:
    """A whole body at once; a HEAD gets the same headers, Content-Length included (X08)."""
    exchange.begin(status)
    if status == 304:  # its Content-Length would be the body's that is not sent
        return web.Response(status=status, headers=headers)
    exchange.sent = 0 if exchange.method == "HEAD" else len(body)
    return web.Response(status=status, body=body, headers={**headers, "Content-Length": str(len(body))})


def described(exchange: Exchange, size: int, headers: Mapping[str, str]) -> web.Response:
    """The answer to a HEAD whose body was never read."""
    exchange.begin(200)
    return web.Response(status=200, headers={**headers, "Content-Length": str(size)})


def failure(exchange: Exchange, error: CisternError) -> web.Response:
    """The OCI error body (distribution-spec "Error Codes") of an error, and the headers its status asks for."""
    status, code = status_of(exchange, error)
    headers = dict(COMMON)
    if error.retry_after_s is not None or status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s or RETRY_AFTER_S)))
    if isinstance(error, MethodUnsupported):
        headers["Allow"] = "GET, HEAD"
    if isinstance(error, RangeUnsatisfiable) and error.size is not None:
        headers["Content-Range"] = f"bytes */{error.size}"
    exchange.error = f"{error.reason}: {error}"
    exchange.upstream_status = upstream_status(error)
    return small(exchange, _error_body(code, error), {**headers, "Content-Type": JSON}, status)


def _error_body(code: str, error: CisternError) -> bytes:
    message = "".join(c if c.isprintable() else "?" for c in str(error))[:MESSAGE_MAX]
    return orjson.dumps({"errors": [{"code": code, "message": message, "detail": None}]})


def malformed(status: int) -> web.Response:
    """The answer to what cannot be read as a request, or met no answer of ours (500). Nothing of it is repeated."""
    error = CisternError("not a valid HTTP request" if status < 500 else "an internal error")
    body = _error_body(answer(error)[1], error)
    return web.Response(status=status, body=body, headers=COMMON | {"Content-Type": JSON})


def status_of(exchange: Exchange, error: CisternError) -> tuple[int, str]:
    """The table's answer, but for two that depend on who asks: an anonymous denial is a 404 (never 401, which would
    mean "log in to Cistern"), and a throttled upstream is told to mirrors as 503, since containerd hammers a 429.
    """
    if isinstance(error, UpstreamDenied) and error.anonymous:
        return 404, MISSING.get(exchange.kind, "NAME_UNKNOWN")
    if isinstance(error, UpstreamThrottled) and (exchange.route is None or exchange.route.is_mirror):
        return 503, "TOOMANYREQUESTS"
    return answer(error)
