"""What a client may get wrong: each has its OCI error, touches no upstream and no file."""

from pathlib import Path

import pytest

from tests.support.images import Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy
from tests.support.pulling import Pulling
from tests.support.registry import Registry

HEX = "a" * 64
TAG = "v2/origin.test/team/app/manifests"

# path -> status, code
BAD: dict[str, tuple[str, int, str]] = {
    "upper case name": ("/v2/origin.test/Team/app/manifests/1", 400, "NAME_INVALID"),
    "dots in name": ("/v2/origin.test/../secret/manifests/1", 400, "NAME_INVALID"),
    "encoded dots": ("/v2/%2e%2e/%2e%2e/x/manifests/1", 400, "NAME_INVALID"),
    "empty component": ("/v2/origin.test//app/manifests/1", 400, "NAME_INVALID"),
    "encoded slash": ("/v2/origin.test/team%2Fapp/manifests/1", 400, "NAME_INVALID"),
    "encoded newline": ("/v2/origin.test/team/app%0a/manifests/1", 400, "NAME_INVALID"),
    "encoded NUL": ("/v2/origin.test/team/app%00/manifests/1", 400, "NAME_INVALID"),
    "not UTF-8": ("/v2/origin.test/team/%ff%fe/manifests/1", 400, "NAME_INVALID"),
    "name too long": (f"/v2/origin.test/{'a' * 256}/manifests/1", 400, "NAME_INVALID"),
    "path too long": (f"/v2/{'a/' * 5000}manifests/1", 400, "NAME_INVALID"),
    "arabic digits": ("/v2/origin.test/team/%D9%A1/manifests/1", 400, "NAME_INVALID"),
    "tag of 129": (f"/{TAG}/{'t' * 129}", 404, "MANIFEST_UNKNOWN"),
    "tag with a newline": (f"/{TAG}/latest%0a", 404, "MANIFEST_UNKNOWN"),
    "tag with a space": (f"/{TAG}/a%20b", 404, "MANIFEST_UNKNOWN"),
    "63 digits": (f"/{TAG}/sha256:{HEX[1:]}", 400, "DIGEST_INVALID"),
    "upper case digest": (f"/{TAG}/sha256:{HEX.upper()}", 400, "DIGEST_INVALID"),
    "climbing digest": ("/v2/origin.test/team/app/blobs/sha256:..", 400, "DIGEST_INVALID"),
    "md5": ("/v2/origin.test/team/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", 400, "DIGEST_INVALID"),
    "unknown algorithm": (f"/v2/origin.test/team/app/blobs/blake3:{HEX}", 400, "DIGEST_INVALID"),
    "no digest": ("/v2/origin.test/team/app/blobs/latest", 400, "DIGEST_INVALID"),
    "bad referrers digest": ("/v2/origin.test/team/app/referrers/sha256:x", 400, "DIGEST_INVALID"),
    "unknown upstream": ("/v2/evil.example/x/manifests/1", 404, "NAME_UNKNOWN"),
    "unknown prefix": ("/evil.example/v2/x/manifests/1", 404, "NAME_UNKNOWN"),
    "metadata by ns": ("/v2/x/manifests/1?ns=169.254.169.254", 404, "NAME_UNKNOWN"),
    "unknown ns": ("/v2/x/manifests/1?ns=evil.example", 404, "NAME_UNKNOWN"),
    "ns with userinfo": ("/v2/x/manifests/1?ns=user@origin.test", 400, "NAME_INVALID"),
    "ns with CRLF": ("/v2/x/manifests/1?ns=origin.test%0d%0aX: y", 400, "NAME_INVALID"),
    "ns twice": ("/v2/x/manifests/1?ns=origin.test&ns=origin.test", 400, "NAME_INVALID"),
    "empty ns": ("/v2/x/manifests/1?ns=", 400, "NAME_INVALID"),
    "ns with a path": ("/v2/x/manifests/1?ns=origin.test/x", 400, "NAME_INVALID"),
    "no such path": ("/v2/origin.test/team/app/layers/x", 404, "NAME_UNKNOWN"),
    "trailing slash": ("/v2/origin.test/team/app/manifests/1/", 404, "NAME_UNKNOWN"),
    "not a registry path": ("/etc/passwd", 404, "NAME_UNKNOWN"),
    "climbing": ("/v2/../../etc/passwd", 404, "NAME_UNKNOWN"),
    "no probe": ("/-/rules/nobody", 404, "NAME_UNKNOWN"),
}


def files_of(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if "sqlite" not in path.name}


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add("team/app", "1", manifest(blob(2000)))


@pytest.mark.parametrize(("target", "status", "code"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_bad_request_has_its_error_and_touches_nothing(
    proxy: Proxy, registry: Registry, image: Image, target: str, status: int, code: str, method: str
) -> None:
    """The status and the OCI code of protocol.md, one bounded log line, no upstream request, no file."""
    before = files_of(proxy.rooms.disk.directory.root)
    pulling = await Pulling.start(proxy.netloc, target.replace(" ", "%20"), method=method)
    body = await pulling.rest()
    assert pulling.status == status
    assert pulling.headers["Content-Type"] == "application/json"
    if method == "GET":
        assert f'"{code}"'.encode() in body
    assert registry.requests == []
    assert files_of(proxy.rooms.disk.directory.root) == before
    (exchange,) = proxy.exchanges
    assert len(str(exchange.line())) < 6000


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
@pytest.mark.parametrize("target", ["manifests/1", "blobs/uploads/", f"blobs/sha256:{HEX}", "tags/list"])
async def test_only_get_and_head_are_served(proxy: Proxy, registry: Registry, method: str, target: str) -> None:
    """Every other method is 405 UNSUPPORTED with Allow, whatever the path, and an override header changes nothing."""
    path = f"/v2/{UPSTREAM}/team/app/{target}"
    pulling = await Pulling.start(proxy.netloc, path, method=method, headers={"X-HTTP-Method-Override": "GET"})
    body = await pulling.rest()
    assert (pulling.status, pulling.headers["Allow"]) == (405, "GET, HEAD")
    assert b'"UNSUPPORTED"' in body
    assert registry.requests == []


async def test_hostile_requests_leave_no_trace(proxy: Proxy, registry: Registry, image: Image) -> None:
    """After a storm of oversized headers, control characters and overrides the next clean pull is a 200 (CPDoS)."""
    for number in range(30):
        for headers in ({"X-Big": "x" * 60_000}, {"X-Meta": "a\x07b"}, {"X-HTTP-Method-Override": "DELETE"}):
            pulling = await Pulling.start(proxy.netloc, f"/{TAG}/{number}", headers=headers)
            await pulling.rest()
    assert (await proxy.ask("team/app/manifests/1")).body == image.manifest.data


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"X-Forwarded-Host": "evil.example"}, {"X-Forwarded-Prefix": "/evil.example"}],
    ids=str,
)
async def test_no_header_chooses_the_upstream(
    proxy: Proxy, registry: Registry, image: Image, headers: dict[str, str]
) -> None:
    """Host and X-Forwarded-* change neither the rule nor the answer (V11)."""
    pulling = await Pulling.start(proxy.netloc, f"/{TAG}/1", headers=headers)
    assert await pulling.rest() == image.manifest.data
    absolute = await Pulling.start(proxy.netloc, f"http://evil.example/{TAG}/1")
    assert await absolute.rest() == image.manifest.data


async def test_a_clients_headers_stay_here(proxy: Proxy, registry: Registry, image: Image) -> None:
    """Only what the protocol needs crosses: no other header of a client reaches the upstream, nor the reverse."""
    sent = {"Authorization": "Basic Og==", "Cookie": "a=b", "X-Custom": "1", "User-Agent": "someone", "Via": "1.1 x"}
    await (await Pulling.start(proxy.netloc, f"/{TAG}/1", headers=sent)).rest()
    answer = await proxy.ask("team/app/manifests/1")
    for request in registry.requests:
        assert not {"Authorization", "Cookie", "X-Custom", "Via"} & set(request.headers)
        assert request.headers["User-Agent"].startswith("cistern/")
    assert not {"Set-Cookie", "WWW-Authenticate", "Server-Timing"} & set(answer.headers)


NAMES = {
    "ns": "/v2/team/app/manifests/1?ns=origin.test",
    "ns in capitals": "/v2/team/app/manifests/1?ns=Origin.Test",
    "path": "/v2/origin.test/team/app/manifests/1",
    "prefix": "/origin.test/v2/team/app/manifests/1",
    "ns and path": "/v2/origin.test/team/app/manifests/1?ns=origin.test",
    "unknown parameters": "/v2/origin.test/team/app/manifests/1?x=1&y=2",
}


@pytest.mark.parametrize("target", NAMES.values(), ids=NAMES.keys())
async def test_every_way_to_name_it_leads_to_one_place(
    proxy: Proxy, registry: Registry, image: Image, target: str
) -> None:
    """`ns`, path and prefix are equal on disk: after one pull by path the others ask nobody; `ns` is echoed."""
    await proxy.ask("team/app/manifests/1")
    answer = await proxy.ask(target)
    assert (answer.status, answer.body) == (200, image.manifest.data)
    assert answer.headers.get("OCI-Namespace") == ("origin.test" if "ns=" in target else None)
    assert len(registry.requests) == 1
    assert registry.requests[0].query == {}
