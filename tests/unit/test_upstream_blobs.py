"""Blobs from an upstream: offsets, cuts, stalls, sizes, caps."""

import asyncio
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from proxy.errors import Failure, UpstreamFault, UpstreamLied, UpstreamNotFound, UpstreamTimeout, UpstreamUnavailable
from proxy.tasks import Tasks
from proxy.upstream.base import Priority
from proxy.upstream.client import Clients
from tests.unit.upstream_peers import NAME, Asked, Calls, Peer, Reply, clients, config, digest_of, receive, source

BLOB = bytes(range(256)) * 1000
DIGEST = digest_of(BLOB)
SIZE = len(BLOB)


def partial(first: int, last: int | None = None, size: int | str = SIZE, **given: Any) -> Reply:
    stop = SIZE if last is None else last + 1
    headers = [("Content-Range", f"bytes {first}-{stop - 1}/{size}")]
    return Reply(206, headers, BLOB[first:stop], **given)


async def collect(upstreams: Clients, got: bytearray, offset: int) -> None:
    """Receive into `got`, which keeps what came before an error."""
    async with upstreams.get_blob(source(), DIGEST, offset=offset) as body:
        async for chunk in body.chunks:
            got += chunk


async def test_a_whole_blob_with_its_size() -> None:
    """One request, every byte, the size told before the first."""
    calls = Calls()
    async with Peer(lambda _asked: Reply(body=BLOB)) as registry:
        async with (
            clients(config(registry.url()), on_request=calls) as upstreams,
            upstreams.get_blob(source(), DIGEST) as body,
        ):
            assert (body.start, body.size, body.origin) == (0, SIZE, registry.url())
            assert b"".join([chunk async for chunk in body.chunks]) == BLOB
        assert registry.targets() == [f"/v2/library/nginx/blobs/{DIGEST}"]
        assert "Range" not in registry.asked[0].headers
    assert [(call.kind, call.received_bytes) for call in calls] == [("blob", SIZE)]


async def test_a_blob_from_an_offset() -> None:
    """`Range: bytes=N-`, and the rest from exactly there."""
    async with Peer(lambda _asked: partial(1000)) as registry, clients(config(registry.url())) as upstreams:
        async with upstreams.get_blob(source(), DIGEST, offset=1000) as body:
            assert (body.start, body.size) == (1000, SIZE)
            assert b"".join([chunk async for chunk in body.chunks]) == BLOB[1000:]
        assert registry.asked[0].headers["Range"] == "bytes=1000-"


@pytest.mark.parametrize(
    ("reply", "start", "size", "content"),
    [
        pytest.param(Reply(body=BLOB), 0, SIZE, BLOB, id="the Range is ignored (U17)"),
        pytest.param(Reply(body=BLOB, length=False), 0, None, BLOB, id="no length"),
        pytest.param(partial(1000, size="*"), 1000, None, BLOB[1000:], id="no size"),
        pytest.param(partial(1000, length=False), 1000, SIZE, BLOB[1000:], id="a part without a length"),
        pytest.param(partial(1000, last=1999), 1000, SIZE, BLOB[1000:2000], id="a shorter part"),
        pytest.param(Reply(416, [("Content-Range", "bytes */1000")]), 1000, 1000, b"", id="nothing is left"),
    ],
)
async def test_other_honest_answers_to_a_range(reply: Reply, start: int, size: int | None, content: bytes) -> None:
    """Where the bytes really begin and how many there are in all is told as it is."""
    async with (
        Peer(lambda _asked: reply) as registry,
        clients(config(registry.url())) as upstreams,
        upstreams.get_blob(source(), DIGEST, offset=1000) as body,
    ):
        assert (body.start, body.size) == (start, size)
        assert b"".join([chunk async for chunk in body.chunks]) == content


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(partial(999), id="another start"),
        pytest.param(partial(0), id="from the beginning"),
        pytest.param(Reply(206, [], BLOB[1000:]), id="no Content-Range"),
        pytest.param(Reply(206, [("Content-Type", "multipart/byteranges; boundary=x")], b"--x--"), id="multipart"),
        pytest.param(Reply(206, [("Content-Range", f"bytes 1000-{SIZE}/{SIZE}")], b"x"), id="beyond its end"),
        pytest.param(Reply(206, [("Content-Range", "bytes 1000-1999/5000")], b"x" * 10), id="another length"),
        pytest.param(Reply(416, [("Content-Range", f"bytes */{SIZE}")]), id="416 though bytes are left"),
        pytest.param(Reply(416), id="416 without a size"),
        pytest.param(Reply(headers=[("Content-Encoding", "gzip")], body=BLOB), id="encoded"),
        pytest.param(Reply(headers=[("Content-Type", "text/html")], body=b"<html>"), id="html"),
        pytest.param(Reply(204), id="no content"),
    ],
)
async def test_dishonest_answers_to_a_range(reply: Reply) -> None:
    """No byte is handed on, and each is a lie, not an outage."""
    async with Peer(lambda _asked: reply) as registry, clients(config(registry.url())) as upstreams:
        with pytest.raises(UpstreamLied):
            await receive(upstreams, DIGEST, offset=1000)


async def test_a_part_nobody_asked_for_is_a_lie() -> None:
    """206 to a request without Range."""
    async with Peer(lambda _asked: partial(0)) as registry, clients(config(registry.url())) as upstreams:
        with pytest.raises(UpstreamLied):
            await receive(upstreams, DIGEST)


@pytest.mark.parametrize(
    ("reply", "offset"), [(Reply(body=BLOB, cut_after=1234), 0), (partial(1000, length=False, cut_after=1234), 1000)]
)
async def test_a_cut_gives_what_came_and_then_an_outage(reply: Reply, offset: int) -> None:
    """With a length, or with a Content-Range that told it."""
    got = bytearray()
    async with Peer(lambda _asked: reply) as registry, clients(config(registry.url())) as upstreams:
        with pytest.raises(UpstreamUnavailable):
            await collect(upstreams, got, offset)
    assert got == BLOB[offset : offset + 1234]


async def test_a_stall_ends_after_its_time() -> None:
    """Headers and some bytes, then silence: UpstreamTimeout, and the connection is not used again."""
    reply = Reply(body=BLOB, gate=asyncio.Event(), gate_after=100)
    async with Peer(lambda _asked: reply) as registry:
        settings = config(registry.url(), timeouts={"stall": "100ms"})
        async with clients(settings) as upstreams:
            with pytest.raises(UpstreamTimeout):
                await receive(upstreams, DIGEST)
            assert upstreams.endpoints(NAME)[0].slots.used == 0


async def test_a_slow_reader_is_no_stall() -> None:
    """Time counts while we wait for the upstream, not while the reader does other things."""
    async with Peer(lambda _asked: Reply(body=BLOB * 20)) as registry:
        async with (
            clients(config(registry.url(), timeouts={"stall": "100ms"})) as upstreams,
            upstreams.get_blob(source(), DIGEST) as body,
        ):
            chunks = [await anext(body.chunks)]
            pause = asyncio.Event()
            asyncio.get_running_loop().call_later(0.3, pause.set)
            await pause.wait()
            chunks += [chunk async for chunk in body.chunks]
        assert b"".join(chunks) == BLOB * 20


async def test_leaving_early_closes_the_connection() -> None:
    """Who leaves the context ends the transfer; the next request dials anew."""
    reply = Reply(body=BLOB, gate=asyncio.Event(), gate_after=100)
    async with Peer(lambda _asked: reply) as registry, clients(config(registry.url())) as upstreams:
        async with upstreams.get_blob(source(), DIGEST) as body:
            assert await anext(body.chunks) == BLOB[:100]
        registry.answer = lambda _asked: Reply(body=BLOB)
        assert await receive(upstreams, DIGEST) == BLOB
        assert registry.connections == 2


@pytest.mark.parametrize(
    "reply",
    [Reply(body=BLOB), Reply(body=BLOB, length=False), partial(0, size=10**15)],
    ids=["told", "endless", "size"],
)
async def test_no_blob_is_larger_than_the_limit(reply: Reply) -> None:
    """Told before the first byte, or cut when the limit is reached (T01)."""
    async with (
        Peer(lambda _asked: reply) as registry,
        clients(config(registry.url(), limits={"max_blob": "1KiB"})) as upstreams,
    ):
        got = bytearray()
        with pytest.raises(UpstreamLied):
            await collect(upstreams, got, 0)
        assert len(got) <= 1024


def by_method(head: Reply, get: Reply) -> Callable[[Asked], Reply]:
    return lambda asked: head if asked.method == "HEAD" else get


@pytest.mark.parametrize(
    ("head", "get", "size", "requests"),
    [
        pytest.param(Reply(body=BLOB), Reply(500), SIZE, 1, id="HEAD"),
        pytest.param(
            Reply(headers=[("Transfer-Encoding", "chunked")], length=False), Reply(500), None, 1, id="no size"
        ),
        pytest.param(Reply(405), partial(0, last=0), SIZE, 2, id="no HEAD: one byte (U16)"),
        pytest.param(Reply(405), Reply(body=BLOB), SIZE, 2, id="no HEAD, no Range"),
        pytest.param(Reply(501), Reply(416, [("Content-Range", "bytes */0")]), 0, 2, id="an empty blob"),
        pytest.param(Reply(body=BLOB, headers=[("Content-Encoding", "gzip")]), Reply(500), None, 1, id="encoded"),
    ],
)
async def test_the_size_of_a_blob(head: Reply, get: Reply, size: int | None, requests: int) -> None:
    """HEAD where it works, else one byte; never a size that speaks of an encoded body."""
    async with Peer(by_method(head, get)) as registry, clients(config(registry.url())) as upstreams:
        assert await upstreams.head_blob(source(), DIGEST) == size
        assert len(registry.asked) == requests


@pytest.mark.parametrize("status", [400, 403, 405])
async def test_storage_that_knows_get_alone_tells_the_size_by_one_byte(status: int) -> None:
    """A URL signed for GET refuses HEAD (U16)."""
    async with Peer(by_method(Reply(status), partial(0, last=0))) as storage:
        async with (
            Peer(lambda _asked: Reply(307, [("Location", storage.url() + "/x")])) as registry,
            clients(config(registry.url())) as upstreams,
        ):
            assert await upstreams.head_blob(source(), DIGEST) == SIZE
        assert [asked.headers.get("Range") for asked in storage.asked] == [None, "bytes=0-0"]


async def test_a_missing_blob_is_not_found() -> None:
    """For HEAD and GET."""
    async with Peer(lambda _asked: Reply(404)) as registry, clients(config(registry.url())) as upstreams:
        with pytest.raises(UpstreamNotFound):
            await upstreams.head_blob(source(), DIGEST)
        with pytest.raises(UpstreamNotFound):
            await receive(upstreams, DIGEST)


async def test_a_second_endpoint_serves_the_blob() -> None:
    """Before the first byte an outage of one endpoint is none of the upstream."""
    async with (
        Peer(lambda _asked: Reply(raw=b"")) as first,
        Peer(lambda _asked: Reply(body=BLOB)) as second,
        clients(config(first.url(), second.url())) as upstreams,
    ):
        assert await receive(upstreams, DIGEST) == BLOB


class HeldBodies:
    """Answers manifests at once; blobs begin, and stand at `gate` until it opens."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.started = asyncio.Semaphore(0)

    def __call__(self, asked: Asked) -> Reply:
        if "/manifests/" in asked.target:
            return Reply(body=b"{}")
        self.started.release()
        return Reply(body=BLOB, gate=self.gate)


async def test_background_leaves_room_for_clients() -> None:
    """With eight connections background holds six; a client's manifest goes through meanwhile."""
    serve = HeldBodies()
    async with (
        Peer(serve) as registry,
        clients(config(registry.url(), max_connections=8)) as upstreams,
        Tasks() as tasks,
    ):
        endpoint = upstreams.endpoints(NAME)[0]
        pulls = [tasks.start(receive(upstreams, DIGEST, priority=Priority.BACKGROUND), name="pull") for _ in range(8)]
        for _ in range(6):
            await serve.started.acquire()
        assert (endpoint.slots.used, endpoint.slots.waiting(Priority.BACKGROUND)) == (6, 2)
        assert (await upstreams.get_manifest(source(), "1")).body == b"{}"
        serve.gate.set()
        assert [await pull for pull in pulls] == [BLOB] * 8
        assert endpoint.slots.used == 0


async def test_bodies_leave_room_for_what_is_short() -> None:
    """With four connections clients receive three bodies; a manifest goes through meanwhile, and a fourth body is told
    to come back once it has waited as long as for headers.
    """
    serve = HeldBodies()
    settings: dict[str, Any] = {"max_connections": 4, "timeouts": {"headers": "100ms"}}
    async with Peer(serve) as registry, clients(config(registry.url(), **settings)) as upstreams, Tasks() as tasks:
        pulls = [tasks.start(receive(upstreams, DIGEST), name="pull") for _ in range(3)]
        for _ in range(3):
            await serve.started.acquire()
        assert (await upstreams.get_manifest(source(), "1")).body == b"{}"
        with pytest.raises(UpstreamUnavailable, match="are in use") as told:
            await receive(upstreams, DIGEST)
        assert (told.value.failure, told.value.retry_after_s) == (Failure.BUSY, 5.0)
        assert not upstreams.endpoints(NAME)[0].breaker.is_open
        serve.gate.set()
        assert [await pull for pull in pulls] == [BLOB] * 3
        assert upstreams.endpoints(NAME)[0].slots.used == 0


@pytest.mark.parametrize(
    "reply",
    [Reply(500), Reply(403), Reply(raw=b"junk\r\n\r\n"), Reply(raw=b""), Reply(body=BLOB, cut_after=3)],
    ids=["500", "403", "junk", "closed", "cut"],
)
async def test_no_error_shows_a_signed_url(reply: Reply) -> None:
    """Neither message nor traceback holds the query of a redirect, whatever fails behind it (V18)."""
    async with Peer(lambda _asked: reply) as storage:
        signed = Reply(307, [("Location", storage.url() + "/x?sig=CANARY")])
        async with Peer(lambda _asked: signed) as registry, clients(config(registry.url())) as upstreams:
            with pytest.raises(UpstreamFault) as failed:
                await receive(upstreams, DIGEST)
    assert "CANARY" not in "".join(traceback.format_exception(failed.value))
