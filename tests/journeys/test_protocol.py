"""What the other journeys leave of protocol.md, sections 1 to 5, and of the threats to them: one line, one test."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.listings import PAGE_MAX
from proxy.oci import ACCEPT, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Digest
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob, Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, config_text, proxied, running
from tests.support.registry import Registry
from tests.support.wire import Answer, Recorded, reply

APP = "team/app"
MIB = 1 << 20


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add(APP, "1", manifest(blob(200_000)))


# Names (section 1)


async def test_the_ping_hangs_on_no_upstream(proxy: Proxy, registry: Registry) -> None:
    """R01, R02: 200 and `{}` in every form that clients build it, with the upstream gone."""
    await registry.stop()
    for path in ("/v2/", "/v2", "/v2/?ns=origin.test", f"/{UPSTREAM}/v2/", f"/{UPSTREAM}/v2"):
        for method in ("GET", "HEAD"):
            answer = await proxy.ask(path, method=method)
            assert (path, answer.status, answer.body) == (path, 200, b"{}" if method == "GET" else b"")
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers["Content-Length"] == "2"
            assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


async def test_a_name_may_hold_any_word(proxy: Proxy, registry: Registry) -> None:
    """R04: names are read from the right."""
    for number, name in enumerate(("a/manifests/b", "blobs/x", "tags/list/tags", "manifests", "a/referrers")):
        image = registry.add(name, "latest", manifest(blob(100 + number)))
        assert (await proxy.ask(f"{name}/manifests/latest")).body == image.manifest.data
        assert (await proxy.pull(image.layers[0], name)).body == image.layers[0].data
        assert json.loads((await proxy.ask(f"{name}/tags/list")).body)["tags"] == ["latest"]


async def test_an_encoded_colon_is_a_colon(proxy: Proxy, image: Image) -> None:
    """R17: `sha256%3AHEX` is how Java and Azure clients write a digest."""
    digest = image.layers[0].digest
    answer = await proxy.ask(f"{APP}/blobs/sha256%3A{digest.encoded}")
    assert (answer.body, answer.headers["Docker-Content-Digest"]) == (image.layers[0].data, str(digest))


@pytest.mark.parametrize(
    "path",
    [f"/v2/{UPSTREAM}/{APP}/manifests/1?ns={UPSTREAM}", f"/v2/{APP}/manifests/1?ns={UPSTREAM}&x=1&n=5"],
    ids=["override_path", "unknown parameters"],
)
async def test_the_namespace_and_unknown_parameters_end_here(
    proxy: Proxy, registry: Registry, image: Image, path: str
) -> None:
    """R09, R15: containerd's `override_path` sends both forms; neither `ns` nor what we do not know goes upstream."""
    for target in (path, path.replace("manifests/1", f"blobs/{image.layers[0].digest}")):
        answer = await proxy.ask(target)
        assert answer.status == 200
        assert answer.headers["OCI-Namespace"] == UPSTREAM
    assert [request.query for request in registry.requests] == [{}, {}]
    await proxy.ask(f"/v2/{APP}/tags/list?ns={UPSTREAM}&x=1&n=5")
    assert registry.requests[-1].query == {"n": "5"}


async def test_where_namespace_and_path_disagree_the_namespace_wins(
    cache_dir: Path, registry: Registry, clock: Clock, image: Image
) -> None:
    """R10: `ns` says which registry; a path that begins with another one's name is a repository of that name."""
    async with Registry() as other:
        moved = other.add(f"{UPSTREAM}/{APP}", "1", manifest(blob(10)))
        text = config_text(cache_dir, registry)
        upstreams = {
            name: {"endpoints": [{"url": site.url}], "plain_http": True}
            for name, site in ((UPSTREAM, registry), ("other.test", other))
        }
        text = f"cache: {{directory: {cache_dir}}}\nupstreams: {json.dumps(upstreams)}\n"
        async with running(text, clock) as proxy:
            answer = await proxy.ask(f"/v2/{UPSTREAM}/{APP}/manifests/1?ns=other.test")
            assert (answer.status, answer.body) == (200, moved.manifest.data)
    assert registry.requests == []


async def test_an_official_name_is_one_place_in_both_spellings(
    cache_dir: Path, registry: Registry, clock: Clock
) -> None:
    """R13: `nginx` is `library/nginx` at an upstream that has the prefix, and both share what is here."""
    image = registry.add("library/nginx", "1", manifest(blob(100)))
    async with proxied(cache_dir, registry, clock, official_prefix="library") as proxy:
        assert (await proxy.ask("nginx/manifests/1")).body == image.manifest.data
        assert (await proxy.ask("library/nginx/manifests/1")).headers["Cache-Status"].endswith("; hit")
    assert registry.requests_for("1") == 1
    assert {request.path for request in registry.requests} == {"/v2/library/nginx/manifests/1"}


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
async def test_a_cache_behind_us_that_knows_no_cold_head(
    proxy: Proxy, registry: Registry, image: Image, kind: str
) -> None:
    """R16: a registry that is a cache itself may answer 404 to the HEAD of what it has not fetched: GET decides."""
    wanted = image.manifest if kind == "manifests" else image.layers[0]

    def cold(request: Recorded, answer: Answer) -> Answer:
        return reply(404, b"", "text/plain") if request.method == "HEAD" else answer

    registry.quirk = cold
    head = await proxy.ask(f"{APP}/{kind}/{wanted.digest}", method="HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, str(wanted.size))
    missing = Digest.of(b"missing")
    assert (await proxy.ask(f"{APP}/{kind}/{missing}", method="HEAD")).status == 404


# Manifests (section 2)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["*/*"],
        [OCI_MANIFEST],
        [DOCKER_MANIFEST, f"{OCI_INDEX}, */*;q=0.1"],
        [f"{kind.strip()}" for kind in ACCEPT.split(",")],
        ["application/vnd.docker.distribution.manifest.v1+prettyjws"],
    ],
    ids=["none", "any", "its own type", "two lines", "a line for each", "an old type alone"],
)
async def test_whatever_a_client_accepts_it_gets_what_the_tag_names(
    proxy: Proxy, registry: Registry, image: Image, lines: list[str]
) -> None:
    """M07 to M10: the upstream hears our list, whatever lines the client sends; a type that it does not name is served
    all the same, under its true Content-Type (docs/reference.md), never another manifest than the tag's.
    """
    head = "".join(f"Accept: {line}\r\n" for line in lines)
    host, _, port = proxy.netloc.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET /v2/{UPSTREAM}/{APP}/manifests/1 HTTP/1.1\r\nHost: x\r\n{head}Connection: close\r\n\r\n".encode()
    )
    said = await reader.read()
    writer.close()
    assert said.startswith(b"HTTP/1.1 200")
    assert f"Content-Type: {OCI_MANIFEST}\r\n".encode() in said
    assert said.endswith(image.manifest.data)
    assert [request.headers.getall("Accept") for request in registry.recorded("1")] == [[ACCEPT]]


async def test_a_digest_of_another_algorithm_is_another_name(proxy: Proxy, registry: Registry, image: Image) -> None:
    """R07, M12: an upstream may name a manifest by its sha512; by either digest the bytes are the same, and checked."""
    long = Digest.of(image.manifest.data, "sha512")
    registry.script("1", script.set_header("Docker-Content-Digest", str(long)), times=1)
    named = image.manifest
    registry.repositories[APP].manifests[long] = named
    answer = await proxy.ask(f"{APP}/manifests/1")
    assert (answer.status, answer.body) == (200, named.data)
    assert answer.headers["Docker-Content-Digest"] == str(long)
    assert proxy.stored(long) == named.data
    registry.script(str(long), script.become(reply(200, b"{}", OCI_MANIFEST)), times=1)
    other = Digest.of(b"other", "sha512")
    registry.repositories[APP].manifests[other] = named
    assert (await proxy.ask(f"{APP}/manifests/{other}")).status == 502


async def test_a_manifest_of_four_mebibytes_is_served(proxy: Proxy, registry: Registry) -> None:
    """M13: the conformance suite's large manifest, 3.9 MB of annotations, is served; one byte above the cap is not."""
    document = json.loads(manifest(blob(10)).manifest.data)
    for size, status in ((4 * MIB, 200), (4 * MIB + 1, 502)):
        document["annotations"] = {"x": ""}
        document["annotations"]["x"] = "y" * (size - len(json.dumps(document)))
        large = registry.add(APP, "large", Image(Blob.of(json.dumps(document).encode(), OCI_MANIFEST)))
        assert large.manifest.size == size
        assert (await proxy.ask(f"{APP}/manifests/{large.digest}")).status == status


async def test_an_endless_manifest_is_cut_at_the_cap(proxy: Proxy, registry: Registry, image: Image) -> None:
    """V33: a body without an end is read to the cap and no further."""
    registry.script("1", script.endless, times=1)
    assert (await proxy.ask(f"{APP}/manifests/1")).status == 502
    assert registry.bytes_for("1") < 8 * MIB
    assert (await proxy.ask(f"{APP}/manifests/1")).body == image.manifest.data


# Blobs (section 3)


@pytest.mark.parametrize("kind", ["manifest", "blob", "referrers", "tags"])
async def test_nothing_is_ever_encoded(proxy: Proxy, registry: Registry, image: Image, kind: str) -> None:
    """B15, B16: whatever a client takes, bodies are identity with a length, and the upstream is asked for just that."""
    path, body = {
        "manifest": (f"{APP}/manifests/1", image.manifest.data),
        "blob": (f"{APP}/blobs/{image.layers[0].digest}", image.layers[0].data),
        "referrers": (f"{APP}/referrers/{image.digest}", None),
        "tags": (f"{APP}/tags/list", None),
    }[kind]
    for _ in range(2):
        answer = await proxy.ask(path, Accept_Encoding="zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")
        assert answer.status == 200
        assert "Content-Encoding" not in answer.headers
        assert "Transfer-Encoding" not in answer.headers
        assert answer.headers["Content-Length"] == str(len(answer.body))
        assert body is None or answer.body == body
    assert {request.headers["Accept-Encoding"] for request in registry.requests} == {"identity"}


async def test_blobs_are_answered_directly(proxy: Proxy, registry: Registry, image: Image) -> None:
    """B24: an upstream's redirect is followed here; no client is ever sent on."""
    async with Registry() as data:
        data.add_blob("x", image.layers[0])
        registry.redirect_blobs = lambda found: f"{data.url}/v2/x/blobs/{found.digest}"
        answer = await proxy.pull(image.layers[0])
        assert (answer.status, answer.body) == (200, image.layers[0].data)
        assert "Location" not in answer.headers
    await proxy.quiet()


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


@pytest.mark.parametrize(
    "status", [400, 401, 402, 403, 404, 405, 406, 410, 412, 418, 429, 451, 500, 502, 503, 504, 599]
)
async def test_every_status_of_an_upstream_has_one_of_ours(
    proxy: Proxy, registry: Registry, image: Image, status: int
) -> None:
    """E01, E03, E05, M20: an OCI body with a code of the spec's list; never a 401; outages tell when to come again."""
    registry.quirk = lambda _request, _answer: reply(status, b"no", "text/plain")
    for path in ways_to(image).values():
        answer = await proxy.ask(path)
        assert answer.status in (404, 403, 429, 502, 503, 504)
        assert answer.code in CODES
        assert json.loads(answer.body)["errors"][0]["message"]
        assert (answer.status in (429, 503)) == ("Retry-After" in answer.headers)
        expected = {404: 404, 410: 404, 401: 404, 403: 404, 451: 404, 429: 503, 500: 503, 503: 503}
        assert (path, answer.status) == (path, expected.get(status, answer.status))
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


# Lists (section 5)


async def test_a_registry_without_tag_lists_is_no_unknown_repository(
    proxy: Proxy, registry: Registry, image: Image
) -> None:
    """T04: public.ecr.aws has no tags/list; its 404 says nothing of the manifests."""
    registry.script(f"/v2/{APP}/tags/list", script.error(404, "NOT_FOUND"))
    assert (await proxy.ask(f"{APP}/tags/list")).status == 404
    assert (await proxy.ask(f"{APP}/manifests/1")).body == image.manifest.data


def always(status: int) -> Callable[[Recorded, Answer], Answer]:
    """A registry that answers everything with one status."""
    return lambda _request, _answer: reply(status, b"", "text/plain")


async def test_referrers_never_flip_to_missing(proxy: Proxy, registry: Registry, clock: Clock, image: Image) -> None:
    """F03: a client that once saw 200 never falls back again: an outage is a stale 200 or a 503, never a 404."""
    path = f"{APP}/referrers/{image.digest}"
    assert (await proxy.ask(path)).status == 200
    for failing in (500, 502, 503, 429):
        clock.advance(3600)
        registry.quirk = always(failing)
        assert (await proxy.ask(path)).status == 200
        assert (await proxy.ask(f"{APP}/referrers/{Digest.of(b'another')}")).status == 503


async def test_referrers_of_the_zero_digest_are_an_empty_index(proxy: Proxy, registry: Registry, image: Image) -> None:
    """F06: oras pings so; whether the API is there is all that it asks."""
    zero = f"sha256:{'0' * 64}"
    answer = await proxy.ask(f"{APP}/referrers/{zero}")
    assert (answer.status, json.loads(answer.body)["manifests"]) == (200, [])
    registry.has_referrers = False
    answer = await proxy.ask(f"{APP}/referrers/sha256:{'1' * 64}")
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")


async def test_several_artifact_types_are_asked_one_at_a_time(proxy: Proxy, registry: Registry, image: Image) -> None:
    """F04: each filter has an answer of its own, and none is served for another."""
    for kind in ("a/b", "c/d"):
        await proxy.ask(f"{APP}/referrers/{image.digest}?artifactType={kind}")
        await proxy.ask(f"{APP}/referrers/{image.digest}?artifactType={kind}")
    asked = [request.query.get("artifactType") for request in registry.requests if "referrers" in request.path]
    assert asked == ["a/b", "c/d"]


async def test_a_page_of_no_number_is_refused(proxy: Proxy, registry: Registry) -> None:
    """T02, V34: 400 of its own code, and nobody is asked."""
    for path in ("/v2/_catalog", f"/v2/{UPSTREAM}/{APP}/tags/list"):
        for n in ("-1", "abc", "1e3", "٣", "0x10", " 1", "1.0"):
            answer = await proxy.ask(f"{path}?n={_quoted(n)}")
            assert (n, answer.status, answer.code) == (n, 400, "PAGINATION_NUMBER_INVALID")
    assert registry.requests == []


async def test_a_page_without_end_costs_a_bounded_one(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """V34: the upstream is asked for our own page at most, whatever a client asks for."""
    for n in (10**12, 2**63, 10**19):
        assert (await proxy.ask(f"/v2/_catalog?n={n}")).status == 200
        assert (await proxy.ask(f"{APP}/tags/list?n={n}")).status == 200
        clock.advance(3600)
    assert [int(request.query["n"]) for request in registry.requests] == [PAGE_MAX] * 3


def _quoted(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


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
