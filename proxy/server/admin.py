"""The admin address and the control socket: probes, metrics, what is here as JSON, and the few things that change it.

Whoever reaches the address may read. To change anything takes the control socket, whose file is the owner's alone, or
a bearer token; without either the answer is 403. Every error is JSON in the registry's own shape: a list `errors` of a
`code`, which is a bounded word, and a `message` for people.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import orjson
from aiohttp import hdrs, web

from proxy.errors import CisternError, Denied, MethodUnsupported, NameInvalid, PathUnknown, answer, refused
from proxy.log import logger
from proxy.server.desk import Desk

log = logger("admin")
JSON: Final = "application/json"
QUERY_MAX: Final = 4096
PARAMETERS_MAX: Final = 64
BODY_MAX: Final = 64 << 10
BODY_S: Final = 10.0  # as long as a header has
READ: Final = ("GET", "HEAD")
TOLD_MAX: Final = 300  # bytes of a body that the log repeats
Query = Mapping[str, str]
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Admin:
    """Answers for one server. `token` is the bearer token that may change things over TCP, None if nobody may."""

    def __init__(self, desk: Desk, *, token: str | None) -> None:
        self._desk = desk
        self._token = token
        self._reads: dict[str, Callable[[Query], Awaitable[Any]]] = {
            "rules": desk.rules,
            "upstreams": desk.upstreams,
            "images": desk.images,
            "hydrations": desk.hydrations,
            "usage": desk.usage,
            "explain": desk.explain,
            "verify": desk.checks,
        }
        self._changes: dict[str, Callable[[bytes], Awaitable[Any]]] = {
            "evict": lambda body: desk.evict(_reference(body)),
            "refresh": lambda body: desk.refresh(_reference(body)),
            "verify": lambda body: desk.verify(_repair(body)),
        }

    async def over_tcp(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request of anybody who reaches the admin address."""
        return await self._guarded(request, may_change=self._has_token(request))

    async def over_control(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request over the control socket."""
        return await self._guarded(request, may_change=True)

    def _has_token(self, request: web.BaseRequest) -> bool:
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        if self._token is None or scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(errors="surrogateescape"), self._token.encode())

    async def _guarded(self, request: web.BaseRequest, *, may_change: bool) -> web.StreamResponse:
        try:
            return await self._answer(request, may_change=may_change)
        except CisternError as error:
            status, _ = answer(error)
            return _failure(status, error.reason, str(error), {"Allow": "GET, HEAD, POST"} if status == 405 else {})
        except ConnectionError:
            raise
        except OSError as error:
            return _failure(500, "disk", str(refused(error)))
        except Exception as error:
            log.exception("an admin request failed", path=request.rel_url.raw_path, error=repr(error))
            return _failure(500, "cistern_error", "an internal error; the log has its trace")

    async def _answer(self, request: web.BaseRequest, *, may_change: bool) -> web.StreamResponse:
        path, raw_query = request.rel_url.raw_path, request.rel_url.raw_query_string
        if len(raw_query) > QUERY_MAX:
            raise NameInvalid(f"the query has more than {QUERY_MAX} characters")
        if (name := path.removeprefix("/api/v1/")) in self._changes and not (
            name in self._reads and request.method in READ
        ):
            return await self._change(request, name, may_change=may_change)
        if request.method not in READ:
            raise MethodUnsupported(f"{request.method[:16]} is not served here")
        try:
            query = {key: values[-1] for key, values in parse_qs(raw_query, max_num_fields=PARAMETERS_MAX).items()}
        except ValueError as cause:
            raise NameInvalid(f"the query has more than {PARAMETERS_MAX} parameters") from cause
        if name != path and name in self._reads:
            return _json(await self._reads[name](query))
        return await self._probe(path, query)

    async def _probe(self, path: str, query: Query) -> web.StreamResponse:
        health, rule = self._desk.health, path.removeprefix("/health/rules/")
        if path == "/livez":
            return _json({"status": "ok"}, 200 if health.live() else 503)
        if path == "/readyz":
            status = health.phase.value if health.is_up else "failing"
            return _json({"status": "ok" if health.ready() else status}, 200 if health.ready() else 503)
        if path == "/health":
            return _json(self._desk.report())
        if path == "/metrics":
            headers = {hdrs.CONTENT_TYPE: self._desk.metrics_type}
            return web.Response(body=await self._desk.metrics.render(), headers=headers)
        if rule == path:
            raise PathUnknown("no such path: /livez, /readyz, /health, /metrics and /api/v1/… are served")
        return await self._rule(unquote(rule), is_cold=query.get("cold") == "1")

    async def _rule(self, name: str, *, is_cold: bool) -> web.StreamResponse:
        health = self._desk.health
        told = await health.cold(name) if is_cold else health.rule_report(name)
        if told is None:
            raise PathUnknown("no rule has this name")
        return _json(told, 503 if told["status"] == "failing" else 200)

    async def _change(self, request: web.BaseRequest, name: str, *, may_change: bool) -> web.StreamResponse:
        if request.method != "POST":
            raise MethodUnsupported(f"{name} is asked for with POST")
        if not may_change:
            raise Denied("this changes something: use the control socket, or CISTERN_ADMIN_TOKEN as bearer token")
        body = await _body(request)
        deed = self._changes[name](body)  # a body that makes no sense is refused here
        log.info(
            "asked for", action=name, body=body[:TOLD_MAX].decode(errors="replace"), client=request.remote or "control"
        )
        return _json(await deed)


async def _body(request: web.BaseRequest) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.content.iter_any():
                body += piece
                if len(body) > BODY_MAX:
                    raise NameInvalid(f"the body has more than {BODY_MAX} bytes")
    except TimeoutError as cause:
        raise NameInvalid(f"the body was not complete within {BODY_S:g} s") from cause
    return bytes(body)


def _reference(body: bytes) -> str:
    """The reference in a body `{"reference": "…"}`; any other body is refused."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as cause:
        raise NameInvalid("the body is not JSON") from cause
    if isinstance(document, dict) and document.keys() == {"reference"} and isinstance(document["reference"], str):
        return document["reference"]
    raise NameInvalid('the body must be {"reference": "…"}')


def _repair(body: bytes) -> bool:
    """The choice in a body `{"repair": true}`; an empty one asks for no repair, any other is refused."""
    try:
        document = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as cause:
        raise NameInvalid("the body is not JSON") from cause
    if isinstance(document, dict) and document.keys() <= {"repair"} and document.get("repair", False) in (True, False):
        return bool(document.get("repair"))
    raise NameInvalid('the body must be {"repair": true} or {"repair": false}')


def _json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    told: dict[str, str] = {hdrs.CONTENT_TYPE: JSON, hdrs.CACHE_CONTROL: "no-store", **(headers or {})}
    return web.Response(status=status, body=body, headers=told)


def _failure(status: int, word: str, message: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return _json({"errors": [{"code": word, "message": message}]}, status, headers)
