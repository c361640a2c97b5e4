"""What a client may get wrong: each has its OCI error, touches no upstream and no file."""

import asyncio
import hashlib
from pathlib import Path

import pytest

from proxy.outcome import Result
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
    "double slash in front": ("//v2/origin.test/team/app/manifests/1", 400, "NAME_INVALID"),
    "another host in front": ("//evil.example/v2/x/manifests/1", 404, "NAME_UNKNOWN"),
    "bad escape": ("/v2/origin.test/%zz/manifests/1", 400, "NAME_INVALID"),
    "fragment": (f"/{TAG}/1#x", 404, "NAME_UNKNOWN"),
    "catalog of a repository": ("/v2/_catalog/x", 404, "NAME_UNKNOWN"),
    "uploads": ("/v2/origin.test/team/app/blobs/uploads", 400, "DIGEST_INVALID"),
    "metrics on this port": ("/metrics", 404, "NAME_UNKNOWN"),
    "too many parameters": (f"/{TAG}/1?{'a&' * 100}", 400, "NAME_INVALID"),
    "query too long": (f"/{TAG}/1?{'a' * 5000}", 400, "NAME_INVALID"),
    "negative page": ("/v2/origin.test/team/app/tags/list?n=-1", 400, "PAGINATION_NUMBER_INVALID"),
    "page of words": ("/v2/origin.test/team/app/tags/list?n=all", 400, "PAGINATION_NUMBER_INVALID"),
    "catalog page of words": ("/v2/_catalog?n=all", 400, "PAGINATION_NUMBER_INVALID"),
    "no probe": ("/-/rules/nobody", 404, "NAME_UNKNOWN"),
}


def files_of(folder: Path) -> dict[str, str]:
    """Every file below the cache directory, records and index included, with the digest of its bytes."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".sqlite-shm"
    }


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add("team/app", "1", manifest(blob(2000)))


@pytest.mark.parametrize("code", sorted({code for _target, _status, code in BAD.values()}))
async def test_a_bad_request_has_its_error_and_touches_nothing(
    proxy: Proxy, registry: Registry, image: Image, code: str
) -> None:
    """The status and the OCI code of protocol.md, one bounded log line each, no upstream request, no file."""
    expected = {name: (status, code) for name, (_, status, told) in BAD.items() if told == code}
    before = files_of(proxy.rooms.disk.directory.root)
    found = {}
    for name in expected:
        got, head = [await proxy.ask(BAD[name][0].replace(" ", "%20"), method=method) for method in ("GET", "HEAD")]
        found[name] = (got.status, got.code)
        assert (head.status, head.body) == (got.status, b"")
        for answer in (got, head):
            assert answer.headers["Content-Type"] == "application/json"
            assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert found == expected
    assert registry.requests == []
    assert files_of(proxy.rooms.disk.directory.root) == before
    assert [exchange.result for exchange in proxy.exchanges] == [Result.ERROR] * len(expected) * 2
    assert all(len(str(exchange.line())) < 6000 for exchange in proxy.exchanges)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
async def test_only_get_and_head_are_served(proxy: Proxy, registry: Registry, method: str) -> None:
    """Every other method is 405 UNSUPPORTED with Allow, whatever the path, and an override header changes nothing."""
    for target in ("manifests/1", "blobs/uploads/", f"blobs/sha256:{HEX}", "tags/list"):
        answer = await proxy.ask(f"team/app/{target}", method=method, X_HTTP_Method_Override="GET")
        assert (answer.status, answer.code, answer.headers["Allow"]) == (405, "UNSUPPORTED", "GET, HEAD")
    assert registry.requests == []


async def test_a_body_is_never_waited_for(proxy: Proxy, registry: Registry) -> None:
    """A push of a gigabyte that was announced and not sent is refused at once."""
    headers = {"Content-Length": "1000000000", "Expect": "100-continue"}
    path = f"/v2/{UPSTREAM}/team/app/blobs/uploads/"
    pulling = await Pulling.start(proxy.netloc, path, method="POST", headers=headers)
    async with asyncio.timeout(10):
        assert await pulling.head() == 405
    await pulling.leave()
    assert registry.requests == []


NO_HTTP: dict[str, bytes] = {
    "length and chunked": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "folded header": b"X-A: b\r\n c\r\n\r\n",
    "bare LF": b"X-A: b\n\n",
    "NUL in a header": b"X-A: a\0b\r\n\r\n",
    "space before the colon": b"X-A : b\r\n\r\n",
    "two hosts": b"Host: other\r\n\r\n",
    "header of 70 kB": b"X-A: " + b"a" * 70_000 + b"\r\n\r\n",
    "thousands of headers": b"X-A: b\r\n" * 5000 + b"\r\n",
}


@pytest.mark.parametrize("rest", NO_HTTP.values(), ids=NO_HTTP.keys())
async def test_what_is_no_http_is_refused_in_the_registrys_words(
    proxy: Proxy, registry: Registry, image: Image, rest: bytes
) -> None:
    """A 400 with the OCI body that repeats nothing, and a close: what is smuggled behind it is never executed (T08)."""
    before = files_of(proxy.rooms.disk.directory.root)
    smuggled = f"GET /{TAG}/1 HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    host, _, port = proxy.netloc.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + rest + smuggled)
    async with asyncio.timeout(10):
        try:
            said = await reader.read()
        except ConnectionResetError:  # it closed with our bytes unread, as it should: RST may outrun the answer
            said = b""
    writer.close()
    assert said.count(b"HTTP/1.") <= 1
    if said:
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == b"400"
        assert b"\r\nContent-Type: application/json\r\n" in head
        assert body == b'{"errors":[{"code":"UNKNOWN","message":"not a valid HTTP request","detail":null}]}'
    assert registry.requests == []
    assert files_of(proxy.rooms.disk.directory.root) == before


# range -> status; whatever the size of the blob is
HOPELESS: dict[str, tuple[str, int, str]] = {
    "malformed": ("bytes=abc", 416, "SIZE_INVALID"),
    "reversed": ("bytes=500-0", 416, "SIZE_INVALID"),
    "empty": ("bytes=", 416, "SIZE_INVALID"),
    "beyond any size": (f"bytes={10**20}-", 416, "SIZE_INVALID"),
    "overlapping": ("bytes=0-99,50-149", 400, "SIZE_INVALID"),
    "a thousand": ("bytes=" + ",".join(f"{n * 2}-{n * 2}" for n in range(1000)), 400, "SIZE_INVALID"),
    "longer than any client's": ("bytes=" + "0" * 9000 + "-", 400, "SIZE_INVALID"),
}


@pytest.mark.parametrize("state", ["cold", "here"])
@pytest.mark.parametrize(("asked", "status", "code"), HOPELESS.values(), ids=HOPELESS.keys())
async def test_a_bad_range_is_refused_before_anybody_is_asked(
    proxy: Proxy, registry: Registry, image: Image, asked: str, status: int, code: str, state: str
) -> None:
    """A range that no blob has is refused alike for a cold and a held blob; nothing is fetched for it."""
    wanted = image.layers[0]
    if state == "here":
        await proxy.pull(wanted)
        await proxy.quiet()
        registry.forget()
    before = files_of(proxy.rooms.disk.directory.root)
    answer = await proxy.pull(wanted, Range=asked)
    assert (answer.status, answer.code) == (status, code)
    if status == 416 and state == "here":
        assert answer.headers["Content-Range"] == f"bytes */{wanted.size}"
    assert registry.requests == []
    assert files_of(proxy.rooms.disk.directory.root) == before


async def test_a_bad_range_tells_the_size_that_a_manifest_told(proxy: Proxy, registry: Registry, image: Image) -> None:
    """Once the manifest is here the 416 of a cold blob has the size as well."""
    await proxy.ask("team/app/manifests/1")
    registry.forget()
    answer = await proxy.pull(image.layers[0], Range="bytes=500-0")
    assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{image.layers[0].size}")
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
