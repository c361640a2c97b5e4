"""What the other journeys leave of protocol.md, section 4: errors and headers, and the line that tells of them."""

import json
from pathlib import Path

import pytest

from proxy.oci import Digest
from tests.support.always import always
from tests.support.clock import Clock
from tests.support.images import Image
from tests.support.proxy import UPSTREAM, Proxy, proxied
from tests.support.registry import Registry
from tests.support.wire import Answer, Recorded, reply

APP = "team/app"


# Errors and headers (section 4)


KNOWN_HEADERS = {
    "accept-ranges", "age", "cache-status", "connection", "content-length", "content-range", "content-type", "date",
    "docker-content-digest", "docker-distribution-api-version", "etag", "link", "oci-filters-applied", "oci-namespace",
    "retry-after", "server", "warning",
}  # fmt: skip
HOSTILE = {
    "X-Registry-Supports-Signatures": "1",
    "WWW-Authenticate": 'Bearer realm="https://evil.example/token",service="x"',
    "Set-Cookie": "session=1; Path=/",
    "Strict-Transport-Security": "max-age=1",
    "Proxy-Authenticate": "Basic",
    "Location": "https://evil.example/",
    "Refresh": "0; url=https://evil.example/",
    "Alt-Svc": 'h3=":443"',
    "Connection": "X-Secret",
    "X-Secret": "1",
    "Trailer": "X-Secret",
    "Warning": '299 - "upstream says"',
    "OCI-Namespace": "evil.example",
    "Cache-Control": "public, max-age=31536000",
}


def ways_to(image: Image) -> dict[str, str]:
    """One path of each kind."""
    return {
        "manifests": f"{APP}/manifests/1",
        "blobs": f"{APP}/blobs/{image.layers[0].digest}",
        "tags": f"{APP}/tags/list",
        "referrers": f"{APP}/referrers/{image.digest}",
    }


@pytest.mark.parametrize("status", [200, 404, 500])
async def test_no_header_of_an_upstream_passes(proxy: Proxy, registry: Registry, image: Image, status: int) -> None:
    """E02, E09, C13, T06, T07, V17: what a client gets is ours: challenges, cookies and promises end here."""

    def hostile(_request: Recorded, answer: Answer) -> Answer:
        told = answer if status == 200 else reply(status, b"<h1>secret</h1>", "text/html")
        for name, value in HOSTILE.items():
            told = told.with_header(name, value)
        return told

    registry.quirk = hostile
    for path in ways_to(image).values():
        answer = await proxy.ask(path)
        assert (path, answer.status) == (path, {200: 200, 404: 404, 500: 503}[status])
        assert {name.lower() for name in answer.headers} <= KNOWN_HEADERS
        assert answer.headers.get("OCI-Namespace") is None
        assert b"secret" not in answer.body
        if status != 200:
            assert answer.headers["Content-Type"] == "application/json"
    await proxy.quiet()


CODES = {
    "BLOB_UNKNOWN", "DIGEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "NAME_INVALID",
    "NAME_UNKNOWN", "SIZE_INVALID", "UNAUTHORIZED", "DENIED", "UNSUPPORTED", "TOOMANYREQUESTS", "UNKNOWN",
    "UNAVAILABLE", "PAGINATION_NUMBER_INVALID",
}  # fmt: skip


# an upstream's status -> ours: not there, or not for us; not to be understood; or away
OURS = {
    400: 502, 401: 404, 402: 502, 403: 404, 404: 404, 405: 502, 406: 502, 410: 404, 412: 502, 418: 502, 429: 503,
    451: 404, 500: 503, 502: 503, 503: 503, 504: 503, 599: 503,
}  # fmt: skip


@pytest.mark.parametrize("status", OURS)
async def test_every_status_of_an_upstream_has_one_of_ours(
    proxy: Proxy, registry: Registry, image: Image, status: int
) -> None:
    """E01, E03, E05, M20: an OCI body with a code of the spec's list; never a 401; outages tell when to come again."""
    registry.quirk = lambda _request, _answer: reply(status, b"no", "text/plain")
    for path in ways_to(image).values():
        answer = await proxy.ask(path)
        assert (path, answer.status) == (path, OURS[status])
        assert answer.code in CODES
        assert json.loads(answer.body)["errors"][0]["message"]
        assert (answer.status == 503) == ("Retry-After" in answer.headers)
    await proxy.quiet()


async def test_a_throttled_upstream_is_429_on_a_rules_own_path_alone(
    cache_dir: Path, registry: Registry, clock: Clock
) -> None:
    """E03: mirrors say 503, since containerd hammers a 429; a rule's own path says what it is. Both say when."""
    rules = "rules:\n  - {name: own, repository: own/*, upstream: origin.test/*}\n"
    async with proxied(cache_dir, registry, clock, rules) as proxy:
        registry.quirk = lambda _request, _answer: reply(429, b"", "text/plain", **{"Retry-After": "17"})
        for path, status in (
            (f"/v2/own/{APP}/manifests/1", 429),
            (f"/v2/{UPSTREAM}/{APP}/manifests/2", 503),
            (f"/{UPSTREAM}/v2/{APP}/manifests/3", 503),
            (f"/v2/{APP}/manifests/4?ns={UPSTREAM}", 503),
        ):
            answer = await proxy.ask(path)
            assert (answer.status, answer.code) == (status, "TOOMANYREQUESTS")
            assert 17 <= int(answer.headers["Retry-After"]) <= 34  # what it said, and some jitter


async def test_a_warning_is_short_and_plain(proxy: Proxy, registry: Registry, clock: Clock, image: Image) -> None:
    """E10: `299 - "text"` of at most 4096 bytes, whatever the upstream did."""
    await proxy.ask(f"{APP}/manifests/1")
    clock.advance(3600)
    await registry.stop()
    warning = (await proxy.ask(f"{APP}/manifests/1")).headers["Warning"]
    assert warning.startswith('299 - "stale: ')
    assert warning.endswith('"')
    assert len(warning) <= 4096
    assert set(warning[7:-1]).isdisjoint('"\\\r\n')


# The request's line (contract section 5)


async def test_every_line_tells_what_the_upstream_answered(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """`upstream_status` stands in the line of whatever made the upstream answer, good or bad, and in no other."""
    layer = image.layers[0]
    gone = Digest.of(b"gone")

    async def told(path: str, method: str = "GET") -> object:
        await proxy.ask(path, method=method)
        await proxy.quiet()
        return proxy.exchanges[-1].line().get("upstream_status")

    for path, method, status in (
        ("/v2/", "GET", None),
        (f"{APP}/manifests/1", "HEAD", 200),
        (f"{APP}/manifests/1", "GET", 200),
        (f"{APP}/manifests/1", "GET", None),
        (f"{APP}/blobs/{layer.digest}", "HEAD", 200),
        (f"{APP}/blobs/{layer.digest}", "GET", 200),
        (f"{APP}/blobs/{layer.digest}", "GET", None),
        (f"{APP}/tags/list", "GET", 200),
        (f"{APP}/manifests/{gone}", "GET", 404),
        (f"{APP}/blobs/{gone}", "GET", 404),
        (f"{APP}/blobs/{gone}", "GET", None),  # remembered
        ("/v2/unknown.example/x/manifests/1", "GET", None),
    ):
        assert (path, method, await told(path, method)) == (path, method, status)
    clock.advance(3600)
    assert await told(f"{APP}/manifests/1") == 304
    registry.quirk = always(403)
    clock.advance(3600)
    for path in (f"{APP}/manifests/1", f"{APP}/tags/list", f"{APP}/manifests/none", f"{APP}/blobs/{gone}"):
        assert (path, await told(path)) == (path, 403)
    registry.quirk = always(500)
    clock.advance(3600)
    for path in (f"{APP}/manifests/1", f"{APP}/tags/list"):  # stale answers, both
        assert (path, await told(path)) == (path, 500)
    await registry.stop()
    clock.advance(3600)
    assert await told(f"{APP}/manifests/1") is None


@pytest.mark.parametrize("kind", ["manifest", "blob", "tag"])
async def test_a_head_that_stores_nothing_says_so(proxy: Proxy, image: Image, kind: str) -> None:
    """However often it is asked while nothing is here; what the GET says is another thing."""
    digest = image.layers[0].digest if kind == "blob" else image.digest
    path = f"{APP}/blobs/{digest}" if kind == "blob" else f"{APP}/manifests/{'1' if kind == 'tag' else digest}"
    first = await proxy.ask(path, method="HEAD")
    assert first.headers["Cache-Status"].endswith("; fwd=miss")
    assert (await proxy.ask(path)).headers["Cache-Status"].endswith("; stored")
