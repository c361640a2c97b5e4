"""Clients that Debian does not have, spoken by script: containerd 2, stargz, nydus; cold, filling and held blobs."""

import asyncio

import pytest

from tests.support.images import Blob, blob
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
