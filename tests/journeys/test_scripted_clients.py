"""Clients that Debian does not have, spoken by script: containerd 2, stargz, nydus; cold, filling and held blobs."""

import asyncio
import json

import pytest

from proxy.oci import OCI_INDEX
from tests.support.images import Blob, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy
from tests.support.raw import RawClient, containerd_fetch, nydus_read, stargz_open
from tests.support.registry import Registry

MIB = 1 << 20
APP = "team/app"
SIZE = 3 * MIB + 4321
SPANS = [(0, 100), (2 * MIB, 2 * MIB + 5000), (MIB, MIB + 1), (SIZE - 10, SIZE)]


@pytest.fixture
def wanted(registry: Registry) -> Blob:
    return registry.add_blob(APP, blob(SIZE))


@pytest.fixture
async def client(proxy: Proxy, wanted: Blob, state: str) -> RawClient:
    """A raw client; the blob is cold, or here."""
    if state == "here":
        await proxy.pull(wanted)
        await proxy.quiet()
    return RawClient(proxy.netloc, namespace=UPSTREAM)


def path_of(wanted: Blob) -> str:
    return f"/v2/{APP}/blobs/{wanted.digest}"


STATES = pytest.mark.parametrize("state", ["cold", "here"])


@STATES
async def test_containerd_2_fetches_in_parallel(
    proxy: Proxy, registry: Registry, client: RawClient, wanted: Blob
) -> None:
    """Open-ended ranges in parallel, each cut short by the client: all are 206, exact, and normal; one transfer."""
    got = await containerd_fetch(client, path_of(wanted), SIZE, chunk=MIB, parallel=3)
    assert b"".join(piece.body for piece in got) == wanted.data
    assert {piece.status for piece in got} == {206}
    await proxy.quiet()
    assert registry.requests_for(wanted.digest) == 1
    assert registry.bytes_for(wanted.digest) == SIZE
    assert all(exchange.error is None for exchange in proxy.exchanges)


@STATES
async def test_stargz_opens_a_layer(proxy: Proxy, registry: Registry, client: RawClient, wanted: Blob) -> None:
    """The probe is a 206 of two bytes, HEAD tells the size, and every range is exact; one transfer."""
    lazy = await stargz_open(client, path_of(wanted), SPANS)
    assert lazy.probe is not None
    assert (lazy.probe.status, lazy.probe.body) == (206, wanted.data[:2])
    assert lazy.probe.headers["Content-Range"] == f"bytes 0-1/{SIZE}"
    assert (lazy.head.status, lazy.head.headers["Content-Length"]) == (200, str(SIZE))
    assert [got.body for got in lazy.ranges] == [wanted.data[start:stop] for start, stop in SPANS]
    await proxy.quiet()
    assert registry.requests_for(wanted.digest) == 1


@STATES
async def test_nydus_reads_ranges(proxy: Proxy, registry: Registry, client: RawClient, wanted: Blob) -> None:
    """nydus takes any 200's body for its range: every answer is a 206 and its buffer is right."""
    lazy, buffer = await nydus_read(client, path_of(wanted), SPANS)
    assert buffer == b"".join(wanted.data[start:stop] for start, stop in SPANS)
    assert {got.status for got in lazy.ranges} == {206}
    await proxy.quiet()


@pytest.mark.parametrize("state", ["cold"])
async def test_headers_leave_while_the_upstream_still_sends(
    proxy: Proxy, registry: Registry, client: RawClient, wanted: Blob
) -> None:
    """containerd 2.3 gives up after 30 s without headers: they leave as soon as the upstream has answered."""
    gate = registry.hold(wanted.digest, after_bytes=0)
    pulling = await proxy.start_pull(wanted)
    assert await pulling.head() == 200
    assert gate.waiting == 1
    gate.open()
    assert await pulling.rest() == wanted.data


@pytest.mark.parametrize("state", ["cold"])
async def test_every_client_at_once_on_a_filling_blob(
    proxy: Proxy, registry: Registry, client: RawClient, wanted: Blob
) -> None:
    """containerd 2, stargz and nydus on one filling blob each get their bytes, from one transfer."""
    gate = registry.hold(wanted.digest, after_bytes=MIB // 2)
    path = path_of(wanted)
    asking = asyncio.gather(
        containerd_fetch(client, path, SIZE, chunk=MIB, parallel=4),
        stargz_open(client, path, SPANS),
        nydus_read(client, path, SPANS),
    )
    await gate.reached()
    gate.open()
    pieces, lazy, (_, buffer) = await asking
    assert b"".join(piece.body for piece in pieces) == wanted.data
    assert [got.body for got in lazy.ranges] == [wanted.data[start:stop] for start, stop in SPANS]
    assert buffer == b"".join(wanted.data[start:stop] for start, stop in SPANS)
    await proxy.quiet()
    assert registry.requests_for(wanted.digest) == 1


@STATES
async def test_ggcr_and_oras_find_every_header(
    proxy: Proxy, registry: Registry, client: RawClient, wanted: Blob, state: str
) -> None:
    """crane, cosign, helm and oras fail without these headers, or with a type that is not bare (M02, M05, B01)."""
    image = registry.add(APP, "1", manifest(blob(5000), wanted))
    ping = await client.ask("GET", "/v2/")
    assert (ping.status, ping.headers["Docker-Distribution-Api-Version"]) == (200, "registry/2.0")
    for target in ("1", str(image.digest)):
        accept = "application/vnd.oci.image.manifest.v1+json"  # ggcr and oras name one type for a descriptor they have
        head = await client.ask("HEAD", f"/v2/{APP}/manifests/{target}", Accept=accept)
        got = await client.ask("GET", f"/v2/{APP}/manifests/{target}", Accept=accept)
        for answer in (head, got):
            assert answer.status == 200
            assert answer.headers["Content-Type"] == image.manifest.media_type
            assert answer.headers["Content-Length"] == str(image.manifest.size)
            assert answer.headers["Docker-Content-Digest"] == str(image.digest)
            assert not {"Content-Encoding", "Transfer-Encoding", "Vary"} & set(answer.headers)
        assert got.body == image.manifest.data
    for part in image.blobs:
        head, got = [await client.ask(method, path_of(part)) for method in ("HEAD", "GET")]
        for answer in (head, got):
            assert (answer.status, answer.headers["Content-Length"]) == (200, str(part.size))
            assert answer.headers["Docker-Content-Digest"] == str(part.digest)
            assert answer.headers["Accept-Ranges"] == "bytes"
            assert answer.headers["Content-Type"] == "application/octet-stream"
            assert not {"Content-Encoding", "Transfer-Encoding", "Location"} & set(answer.headers)
        assert got.whole
    await proxy.quiet()


@pytest.mark.parametrize("state", ["cold"])
async def test_oras_walks_the_pages_of_a_tag_list(proxy: Proxy, registry: Registry, client: RawClient) -> None:
    """A Link leads back to the host that was asked, with `ns` still in it, to the last page (T03)."""
    for number in range(5):
        registry.add(APP, f"v{number}", manifest(blob(100 + number)))
    target, found = f"/v2/{APP}/tags/list?n=2&ns={UPSTREAM}", []
    pages = 0
    while target:
        page = await RawClient(proxy.netloc).ask("GET", target)
        assert page.status == 200
        found += json.loads(page.body)["tags"]
        link = page.headers.get("Link", "")
        target = link.partition("<")[2].partition(">")[0]
        assert not link or (target.startswith(f"/v2/{APP}/tags/list?") and 'rel="next"' in link)
        pages += 1
    assert (found, pages) == ([f"v{number}" for number in range(5)], 3)


@pytest.mark.parametrize("state", ["cold"])
@pytest.mark.parametrize("has_referrers", [True, False], ids=["with referrers", "without"])
async def test_docker_29_looks_for_attestations(
    proxy: Proxy, registry: Registry, client: RawClient, has_referrers: bool
) -> None:
    """Unfiltered referrers of a manifest, then the tag `sha256-HEX`: both tell the truth, and no pull fails (F08).

    Without the API the answer is 404 each time, and never NAME_UNKNOWN, which oras takes for an error (F02, F03).
    """
    registry.has_referrers = has_referrers
    image = registry.add(APP, "1", manifest(blob(5000)))
    subject = {"mediaType": image.manifest.media_type, "digest": str(image.digest), "size": image.manifest.size}
    proof = registry.add(
        APP, None, manifest(blob(60), extra={"subject": subject, "artifactType": "application/x.proof"})
    )
    for digest, proofs in ((image.digest, [proof.digest]), (f"sha256:{'0' * 64}", [])):
        for _ in range(2):
            listed = await client.ask("GET", f"/v2/{APP}/referrers/{digest}")
            if has_referrers:
                assert (listed.status, listed.headers["Content-Type"]) == (200, OCI_INDEX)
                assert [entry["digest"] for entry in json.loads(listed.body)["manifests"]] == [str(d) for d in proofs]
            else:
                assert listed.status == 404
                assert json.loads(listed.body)["errors"][0]["code"] == "MANIFEST_UNKNOWN"
        by_tag = await client.ask("GET", f"/v2/{APP}/manifests/{str(digest).replace(':', '-')}")
        assert (by_tag.status, json.loads(by_tag.body)["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")
    if has_referrers:
        assert (await client.ask("GET", f"/v2/{APP}/manifests/{proof.digest}")).body == proof.manifest.data


@pytest.mark.parametrize("state", ["cold"])
async def test_a_far_range_of_a_held_blob_has_its_headers_at_once(
    proxy: Proxy, registry: Registry, client: RawClient, wanted: Blob
) -> None:
    """The upstream has sent half a MiB: a range behind that gets its 206 now, and its bytes when they come (B19)."""
    gate = registry.hold(wanted.digest, after_bytes=MIB // 2)
    first = await proxy.start_pull(wanted)
    await first.read(1000)
    await gate.reached()
    far = await proxy.start_pull(wanted, Range=f"bytes={2 * MIB}-{2 * MIB + 99}")
    assert await far.head() == 206
    assert far.headers["Content-Range"] == f"bytes {2 * MIB}-{2 * MIB + 99}/{SIZE}"
    await first.leave()
    gate.open()
    assert await far.rest() == wanted.data[2 * MIB : 2 * MIB + 100]
    await proxy.quiet()
    assert proxy.stored(wanted.digest) == wanted.data
    assert registry.requests_for(wanted.digest) == 1
