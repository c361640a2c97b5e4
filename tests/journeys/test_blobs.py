"""Blobs through the whole proxy: HEAD, GET and ranges answer alike whether a blob is cold, filling or here."""

import asyncio
import os
from pathlib import Path

import pytest

from proxy.events import NotStored
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob, blob, manifest
from tests.support.proxy import Proxy, proxied
from tests.support.registry import Registry
from tests.support.wire import Fault, Gate

APP = "team/app"
SIZE = 300_000
STATES = ["cold", "filling", "here"]


class Stage:
    """Brings a blob into one of its three states."""

    def __init__(self, proxy: Proxy, registry: Registry, wanted: Blob) -> None:
        self._proxy = proxy
        self._registry = registry
        self._wanted = wanted
        self._gate: Gate | None = None

    async def enter(self, state: str) -> None:
        if state == "filling":
            self._gate = self._registry.hold(self._wanted.digest, after_bytes=1000)
            pulling = await self._proxy.start_pull(self._wanted)
            await self._gate.reached()
            await pulling.leave()
        elif state == "here":
            await self._proxy.pull(self._wanted)
            await self._proxy.quiet()

    def go_on(self) -> None:
        if self._gate is not None:
            self._gate.open()


@pytest.fixture
def wanted(registry: Registry) -> Blob:
    return registry.add_blob(APP, blob(SIZE))


@pytest.fixture
def stage(proxy: Proxy, registry: Registry, wanted: Blob) -> Stage:
    return Stage(proxy, registry, wanted)


RANGES = {
    "first bytes": ("bytes=0-99", 0, 100),
    "middle": ("bytes=500-1499", 500, 1500),
    "open end": ("bytes=200000-", 200_000, SIZE),
    "from zero": ("bytes=0-", 0, SIZE),
    "suffix": ("bytes=-500", SIZE - 500, SIZE),
    "longer suffix than the blob": (f"bytes=-{SIZE + 5}", 0, SIZE),
    "past the end": (f"bytes={SIZE - 48}-{SIZE + 999}", SIZE - 48, SIZE),
    "one byte": ("bytes=7-7", 7, 8),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(("header", "start", "stop"), RANGES.values(), ids=RANGES.keys())
async def test_a_range_is_exact_in_every_state(
    proxy: Proxy, stage: Stage, wanted: Blob, state: str, header: str, start: int, stop: int
) -> None:
    """A single range is a 206 with its exact bytes and a Content-Range whose total is a number."""
    await stage.enter(state)
    pulling = await proxy.start_pull(wanted, Range=header)
    stage.go_on()
    assert await pulling.rest() == wanted.data[start:stop]
    assert pulling.status == 206
    assert pulling.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert pulling.headers["ETag"] == f'"{wanted.digest}"'
    await proxy.quiet()


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("header", [f"bytes={SIZE}-", "bytes=500-0", "bytes=-0", "bytes=99999999999999999999-"])
async def test_a_range_without_bytes_is_a_416(
    proxy: Proxy, registry: Registry, stage: Stage, wanted: Blob, state: str, header: str
) -> None:
    """A range that holds no byte of the blob is 416 with the blob's size, where it is known without asking for it."""
    await stage.enter(state)
    pulling = await proxy.start_pull(wanted, Range=header)
    stage.go_on()
    await pulling.rest()
    assert pulling.status == 416
    if state == "cold" and header != f"bytes={SIZE}-":  # it holds no byte of any blob: no upstream is asked
        assert "Content-Range" not in pulling.headers
        assert registry.requests == []
    else:
        assert pulling.headers["Content-Range"] == f"bytes */{SIZE}"
    await proxy.quiet()


@pytest.mark.parametrize("state", STATES)
async def test_several_ranges_are_multipart(proxy: Proxy, stage: Stage, wanted: Blob, state: str) -> None:
    """Several ranges are one multipart/byteranges answer of a known length; podman pulls zstd:chunked so."""
    await stage.enter(state)
    pulling = await proxy.start_pull(wanted, Range="bytes=0-99,200-299,-10")
    stage.go_on()
    body = await pulling.rest()
    assert pulling.status == 206
    kind, _, boundary = pulling.headers["Content-Type"].partition("; boundary=")
    assert (kind, ":" in boundary) == ("multipart/byteranges", False)
    parts = body.split(f"\r\n--{boundary}".encode())[1:]
    assert parts.pop() == b"--\r\n"
    heads, payloads = zip(*(part.split(b"\r\n\r\n", 1) for part in parts), strict=True)
    assert list(payloads) == [wanted.data[0:100], wanted.data[200:300], wanted.data[-10:]]
    assert [head.decode().split("Content-Range: ")[1] for head in heads] == [
        f"bytes 0-99/{SIZE}",
        f"bytes 200-299/{SIZE}",
        f"bytes {SIZE - 10}-{SIZE - 1}/{SIZE}",
    ]
    await proxy.quiet()


@pytest.mark.parametrize("state", STATES)
async def test_ranges_that_would_amplify_are_refused(proxy: Proxy, stage: Stage, wanted: Blob, state: str) -> None:
    """Overlapping or very many ranges are a 400, after which clients ask for single ranges."""
    await stage.enter(state)
    for header in ("bytes=0-99,50-149", "bytes=" + ",".join(f"{at}-{at}" for at in range(0, 200, 2))):
        pulling = await proxy.start_pull(wanted, Range=header)
        stage.go_on()
        await pulling.rest()
        assert pulling.status == 400
    await proxy.quiet()


@pytest.mark.parametrize("state", STATES)
async def test_head_is_as_complete_as_get(proxy: Proxy, stage: Stage, wanted: Blob, state: str) -> None:
    """HEAD tells the size, digest and ranges as GET does, in every state, and ignores Range."""
    await stage.enter(state)
    head = await proxy.ask(f"{APP}/blobs/{wanted.digest}", method="HEAD", Range="bytes=0-0")
    stage.go_on()
    got = await proxy.pull(wanted)
    for name in ("Content-Length", "Content-Type", "Docker-Content-Digest", "ETag", "Accept-Ranges"):
        assert head.headers[name] == got.headers[name]
    assert (head.status, got.status) == (200, 200)
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["Accept-Ranges"] == "bytes"
    assert "Transfer-Encoding" not in got.headers
    await proxy.quiet()


async def test_if_range(proxy: Proxy, wanted: Blob) -> None:
    """If-Range with the blob's ETag keeps the range; any other value gets the whole."""
    same = await proxy.pull(wanted, Range="bytes=0-9", If_Range=f'"{wanted.digest}"')
    other = await proxy.pull(wanted, Range="bytes=0-9", If_Range='"other"')
    assert (same.status, same.body) == (206, wanted.data[:10])
    assert (other.status, other.body) == (200, wanted.data)


async def test_a_cold_head_asks_for_no_body(proxy: Proxy, registry: Registry, wanted: Blob) -> None:
    """HEAD of a cold blob costs one HEAD upstream and starts no transfer."""
    head = await proxy.ask(f"{APP}/blobs/{wanted.digest}", method="HEAD")
    assert head.headers["Content-Length"] == str(SIZE)
    assert registry.requests_for(wanted.digest) == 0
    assert registry.requests_for(wanted.digest, "HEAD") == 1
    assert proxy.stored(wanted.digest) is None


async def test_the_first_bytes_of_a_cold_blob_do_not_wait_for_all(
    proxy: Proxy, registry: Registry, wanted: Blob
) -> None:
    """stargz asks `bytes=0-1` first: answered while the rest is still upstream; one fill is started, no more."""
    gate = registry.hold(wanted.digest, after_bytes=1000)
    answer = await proxy.pull(wanted, Range="bytes=0-1")
    assert (answer.status, answer.body) == (206, wanted.data[:2])
    gate.open()
    await proxy.quiet()
    assert registry.requests_for(wanted.digest) == 1
    assert proxy.stored(wanted.digest) == wanted.data


async def test_the_zero_byte_blob(proxy: Proxy, registry: Registry) -> None:
    """A blob of no bytes is served with length 0; a range of it is a 416."""
    empty = registry.add_blob(APP, blob(data=b""))
    for _ in range(2):
        answer = await proxy.pull(empty)
        assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "0", b"")
    assert (await proxy.pull(empty, Range="bytes=0-")).status == 416


async def test_a_missing_blob_is_unknown(proxy: Proxy, registry: Registry, clock: Clock) -> None:
    """A blob that the upstream lacks is 404 BLOB_UNKNOWN, remembered for a while and no longer."""
    absent = blob(5000)
    for _ in range(3):
        answer = await proxy.pull(absent)
        assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")
    assert registry.requests_for(absent.digest) == 1
    registry.add_blob(APP, absent)
    clock.advance(11)
    assert (await proxy.pull(absent)).body == absent.data


@pytest.mark.parametrize("framing", [script.chunked, script.close_delimited], ids=["chunked", "close-delimited"])
async def test_an_upstream_that_tells_no_size(proxy: Proxy, registry: Registry, wanted: Blob, framing: Fault) -> None:
    """Without a length upstream the size is the manifest's, if one is known; else the answer is chunked, and whole."""
    registry.script(wanted.digest, framing)
    answer = await proxy.pull(wanted)
    assert answer.body == wanted.data
    assert answer.headers.get("Transfer-Encoding") == "chunked"
    image = registry.add(APP, "1", manifest(blob(200_000, seed=5)))
    layer = image.layers[0]
    registry.script(layer.digest, framing)
    await proxy.ask(f"{APP}/manifests/1")
    answer = await proxy.pull(layer)
    assert (answer.body, answer.headers["Content-Length"]) == (layer.data, str(layer.size))
    await proxy.quiet()


async def test_a_cut_body_without_a_length_never_completes(proxy: Proxy, registry: Registry, wanted: Blob) -> None:
    """A close-delimited body cut short looks complete to HTTP; its digest says otherwise, and the client is told."""
    registry.script(wanted.digest, script.close_delimited, script.cut(200_000), times=1)
    pulling = await proxy.start_pull(wanted)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError, ValueError)):
        await pulling.rest()
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()


async def test_sizes_that_do_not_agree_are_a_502(proxy: Proxy, registry: Registry) -> None:
    """A Content-Length that is not the manifest's size is refused before any header, and nothing is kept."""
    proxy.hear(NotStored)
    image = registry.add(APP, "1", manifest(blob(100_000, seed=9)))
    layer = image.layers[0]
    await proxy.ask(f"{APP}/manifests/1")
    registry.script(layer.digest, script.declare(layer.size + 1), times=1)
    answer = await proxy.pull(layer)
    assert (answer.status, answer.code) == (502, "UNKNOWN")
    assert [event.reason for event in proxy.heard if isinstance(event, NotStored)] == ["upstream_lied"]
    assert (await proxy.pull(layer)).body == layer.data
    await proxy.quiet()


REFUSALS = {
    "html": (script.html(), 502),
    "gzip": (script.compress, 502),
    "500": (script.error(500), 503),
    "403": (script.error(403), 404),
}


@pytest.mark.parametrize(("fault", "status"), REFUSALS.values(), ids=REFUSALS.keys())
async def test_failure_before_the_first_byte_has_its_true_status(
    proxy: Proxy, registry: Registry, wanted: Blob, fault: Fault, status: int
) -> None:
    """What goes wrong before bytes flow is an OCI error, the same for all who wait; the next honest answer serves."""
    registry.script(wanted.digest, fault)
    answers = await asyncio.gather(*(proxy.pull(wanted) for _ in range(8)))
    assert {answer.status for answer in answers} == {status}
    assert all(answer.code for answer in answers)
    registry.heal()
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()


async def test_a_full_disk_at_commit_fails_no_client(cache_dir: Path, registry: Registry, wanted: Blob) -> None:
    """A store that cannot take the blob costs the client nothing; why it was not kept is told."""
    async with proxied(cache_dir, registry) as proxy:
        proxy.hear(NotStored)
        shard = proxy.rooms.disk.blobs.path_of(wanted.digest).parent
        shard.parent.mkdir(parents=True, exist_ok=True)
        shard.write_text("a file where a folder should be")
        assert (await proxy.pull(wanted)).body == wanted.data
        await proxy.quiet()
        assert [event.reason for event in proxy.heard if isinstance(event, NotStored)] == ["disk"]
        shard.unlink()
        await proxy.rooms.capacity.trouble.try_now()
        assert (await proxy.pull(wanted)).body == wanted.data
        await proxy.quiet()
        assert proxy.stored(wanted.digest) == wanted.data


async def test_a_blob_that_left_the_page_cache_comes_whole(proxy: Proxy, wanted: Blob) -> None:
    """It is read in first, and sent like any other."""
    await proxy.pull(wanted)
    await proxy.quiet()
    for _ in range(2):
        with proxy.rooms.disk.blobs.path_of(wanted.digest).open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert (await proxy.pull(wanted)).body == wanted.data
