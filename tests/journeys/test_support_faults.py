"""The scripted faults, the fault proxy and the raw peers do to a client what they say they do."""

import asyncio
import gzip

import aiohttp
import pytest

from tests.support import images, raw, script
from tests.support.faults import End, FaultProxy
from tests.support.images import Blob
from tests.support.raw import RawClient, RawServer
from tests.support.registry import Registry
from tests.support.wire import Fault, reply

LAYER = images.blob(200_000)
PATH = f"/v2/team/app/blobs/{LAYER.digest}"


@pytest.fixture
def layer(registry: Registry) -> Blob:
    """A blob of 200 kB, in the scripted registry."""
    return registry.add_blob("team/app", LAYER)


def client(registry: Registry) -> RawClient:
    return RawClient(registry.netloc)


async def test_a_held_body_stops_at_its_byte_and_goes_on(registry: Registry, layer: Blob) -> None:
    """The first bytes arrive, the rest only once the gate is opened."""
    gate = registry.hold(layer.digest, after_bytes=70_000)
    assert (await client(registry).ask("GET", PATH, read=70_000)).body == layer.data[:70_000]
    async with asyncio.TaskGroup() as both:
        whole = both.create_task(client(registry).ask("GET", PATH))
        await gate.reached()
        assert not whole.done()
        gate.open()
    assert whole.result().body == layer.data


async def test_held_headers_stop_before_the_status(registry: Registry, layer: Blob) -> None:
    """Nothing arrives until the gate is opened; the request has been recorded."""
    gate = registry.hold_headers(layer.digest)
    async with asyncio.TaskGroup() as both:
        whole = both.create_task(client(registry).ask("GET", PATH))
        await gate.reached()
        assert (registry.requests_for(layer.digest), registry.requests[0].sent_bytes) == (1, 0)
        gate.open()
    assert whole.result().whole


async def test_a_cut_body_ends_after_exactly_its_bytes(registry: Registry, layer: Blob) -> None:
    """Cut twice, then honest: what arrives is a prefix of that length, and then the whole."""
    registry.script(layer.digest, script.cut(150_001), times=2)
    for _ in range(2):
        got = await client(registry).ask("GET", PATH)
        assert (got.status, got.body, got.whole) == (200, layer.data[:150_001], False)
    assert (await client(registry).ask("GET", PATH)).whole
    assert [request.sent_bytes for request in registry.requests] == [150_001, 150_001, layer.size]


async def test_a_reset_body_breaks_the_connection(registry: Registry, layer: Blob) -> None:
    """RST: the client's read fails, it does not end."""
    registry.script(layer.digest, script.cut(100, reset=True))
    with pytest.raises(ConnectionResetError):
        await client(registry).ask("GET", PATH)


WRONG: dict[str, tuple[tuple[Fault, ...], int, bytes]] = {
    "spoilt": ((script.spoil(0),), 200, bytes([LAYER.data[0] ^ 0xFF]) + LAYER.data[1:]),
    "portal": ((script.html(),), 200, b"<html><body>Please log in</body></html>"),
    "gzipped": ((script.compress,), 200, gzip.compress(LAYER.data, mtime=0)),
    "close-delimited": ((script.close_delimited,), 200, LAYER.data),
    "declared short": ((script.declare(5),), 200, LAYER.data[:5]),
    "declared long": ((script.declare(LAYER.size + 5),), 200, LAYER.data),
    "replaced": ((script.become(reply(418, b"tea")),), 418, b"tea"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
async def test_a_wrong_body_is_wrong_as_asked(
    registry: Registry, layer: Blob, case: tuple[tuple[Fault, ...], int, bytes]
) -> None:
    """Each fault sends the status and bytes it names."""
    faults, status, body = case
    registry.script(layer.digest, *faults)
    got = await client(registry).ask("GET", PATH)
    assert (got.status, got.body) == (status, body)


async def test_range_lies_are_told_only_about_ranges(registry: Registry, layer: Blob) -> None:
    """An ignored range answers 200 with everything; a shifted one a 206 that starts elsewhere, and says so."""
    registry.script(layer.digest, script.ignore_range, times=1)
    ignored = await client(registry).ask("GET", PATH, Range="bytes=1000-")
    assert (ignored.status, ignored.body, ignored.headers.get("Content-Range")) == (200, layer.data, None)
    registry.script(layer.digest, script.shift_range(-10))
    shifted = await client(registry).ask("GET", PATH, Range="bytes=1000-")
    assert (shifted.status, shifted.body) == (206, layer.data[990:])
    assert shifted.headers["Content-Range"] == f"bytes 990-{layer.size - 1}/{layer.size}"


async def test_an_endless_body_ends_when_its_reader_leaves(registry: Registry, layer: Blob) -> None:
    """More bytes arrive than the blob has, and the server's handler ends with the connection."""
    registry.script(layer.digest, script.endless)
    got = await client(registry).ask("GET", PATH, read=3 * layer.size)
    assert len(got.body) == 3 * layer.size


async def test_a_stopped_registry_comes_back_on_its_port(registry: Registry, layer: Blob) -> None:
    """Stopped, it refuses connections; started again, it holds what it held."""
    await registry.stop()
    with pytest.raises(ConnectionRefusedError):
        await client(registry).ask("GET", PATH)
    await registry.start()
    assert (await client(registry).ask("GET", PATH)).whole


# The road


@pytest.mark.parametrize("end", list(End), ids=lambda end: end.value)
async def test_the_road_can_end_anywhere(registry: Registry, layer: Blob, end: End) -> None:
    """After so many bytes the connection is closed, reset or half-closed; the next one, healed, is whole."""
    async with FaultProxy("127.0.0.1", registry.port) as road:
        road.down.cut_after, road.down.end = 50_000, end
        if end is End.RESET:
            with pytest.raises(ConnectionResetError):
                await RawClient(road.netloc).ask("GET", PATH)
        else:
            got = await RawClient(road.netloc).ask("GET", PATH)
            assert layer.data.startswith(got.body)
            assert not got.whole
        assert road.down.carried_bytes == 50_000
        road.down.cut_after = None
        assert (await RawClient(road.netloc).ask("GET", PATH)).whole


async def test_a_stalled_road_carries_nothing_until_it_flows(registry: Registry, layer: Blob) -> None:
    """Connections are taken while it stalls, and served when it flows."""
    async with FaultProxy("127.0.0.1", registry.port) as road:
        road.stall()
        async with asyncio.TaskGroup() as both:
            whole = both.create_task(RawClient(road.netloc).ask("GET", PATH))
            await road.stalled()
            assert registry.requests == []
            road.flow()
        assert whole.result().whole


async def test_a_refusing_road_resets_who_knocks(registry: Registry) -> None:
    """A connection is reset before a byte."""
    async with FaultProxy("127.0.0.1", registry.port) as road:
        road.refusing = True
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await RawClient(road.netloc).ask("GET", PATH)


async def test_a_road_is_cut_so_often_and_heals(registry: Registry, layer: Blob) -> None:
    """Two connections are reset in mid-header, one as it comes, and the next is whole; `heal` ends every fault."""
    async with FaultProxy("127.0.0.1", registry.port) as road:
        road.down.cut_after, road.down.cuts, road.down.end, road.refuse_next = 40, 2, End.RESET, 1
        for _ in range(3):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await RawClient(road.netloc).ask("GET", PATH)
        assert (await RawClient(road.netloc).ask("GET", PATH)).whole
        road.down.cut_after, road.refusing, road.up.latency_s = 0, True, 60.0
        road.stall()
        road.heal()
        assert (await RawClient(road.netloc).ask("GET", PATH)).whole


async def test_a_far_road_delays_every_piece(registry: Registry, layer: Blob) -> None:
    """Latency in both directions: request and answer take at least that long each."""
    loop = asyncio.get_running_loop()
    async with FaultProxy("127.0.0.1", registry.port) as road:
        road.up.latency_s = road.down.latency_s = 0.02
        started = loop.time()
        assert (await RawClient(road.netloc).ask("HEAD", PATH)).status == 200
        assert loop.time() - started >= 0.04


async def test_a_half_close_is_carried_on() -> None:
    """A peer that is done with sending is told so through the road, and its answer still comes back."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, FaultProxy("127.0.0.1", server.sockets[0].getsockname()[1]) as road:
        reader, writer = await asyncio.open_connection("127.0.0.1", road.port)
        writer.write(b"words")
        writer.write_eof()
        assert await reader.read() == b"words"
        writer.close()


async def test_a_narrow_road_takes_the_time_its_bytes_need(registry: Registry, layer: Blob) -> None:
    """200 kB at 1 MB/s last at least what the bucket says, less its one piece."""
    loop = asyncio.get_running_loop()
    async with FaultProxy("127.0.0.1", registry.port) as road:
        road.down.bytes_per_s = 1_000_000
        started = loop.time()
        assert (await RawClient(road.netloc).ask("GET", PATH)).whole
        assert loop.time() - started > (layer.size - 20_000) / 1_000_000


# Raw peers

HOSTILE = {
    "not http": raw.NOT_HTTP,
    "negative length": raw.BAD_LENGTH,
    "two lengths": raw.twice_the_length(b"hello", 6),
    "bad chunk": raw.BAD_CHUNK,
    "short": raw.short(b"hello", 10),
}


@pytest.mark.parametrize("response", HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_response_is_no_answer(response: bytes) -> None:
    """A strict client reads none of them to a clean end."""
    async with RawServer(response) as server, aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            async with http.get(server.url) as answer:
                await answer.read()


async def test_endless_headers_are_cut_off_by_the_clients_limit() -> None:
    """The responder sends header lines until the client has had enough, and survives its leaving."""
    async with RawServer(raw.ENDLESS_HEADERS, endless=raw.ENDLESS_LINE) as server, aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.get(server.url)


async def test_lazy_and_parallel_pullers_read_what_they_came_for(registry: Registry, layer: Blob) -> None:
    """containerd's chunks, stargz' and nydus' spans, put together, are the blob's bytes."""
    puller = RawClient(registry.netloc, namespace="hub.example")
    parts = await raw.containerd_fetch(puller, PATH, layer.size, chunk=30_000, parallel=3)
    assert b"".join(part.body for part in parts) == layer.data
    assert {part.status for part in parts} == {206}
    spans = [(0, 10), (100_000, 130_000), (199_990, 200_000)]
    wanted = [layer.data[start:stop] for start, stop in spans]
    lazy = await raw.stargz_open(puller, PATH, spans)
    assert [got.body for got in lazy.ranges] == wanted
    _, buffer = await raw.nydus_read(puller, PATH, spans)
    assert buffer == b"".join(wanted)
    assert all(request.query == {"ns": "hub.example"} for request in registry.requests)
