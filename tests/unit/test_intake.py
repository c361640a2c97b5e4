"""A long body without aiohttp's reader: every byte in order, cuts and stalls as with it, one buffer of memory."""

import asyncio
import ssl
from pathlib import Path

import pytest
import trustme

from proxy.errors import Failure, UpstreamTimeout, UpstreamUnavailable
from proxy.upstream.base import BlobBody, Buffer
from proxy.upstream.intake import BUFFER, LEAST, ROOM, SPARE, Intake
from tests.unit.upstream_peers import Peer, Reply, clients, config, digest_of, receive, source

BODY = bytes(range(256)) * 8192  # 2 MiB: more than one buffer
DIGEST = digest_of(BODY)


@pytest.fixture
def for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threshold is out of the way."""
    monkeypatch.setattr("proxy.upstream.intake.LEAST", 1)


async def collect(body: BlobBody, got: bytearray) -> None:
    """Receive into `got`, which keeps what came before an error."""
    async for chunk in body.chunks:
        got += chunk


@pytest.mark.usefixtures("for_all")
async def test_every_byte_in_order_and_a_connection_of_its_own() -> None:
    """What came with the head is not lost, and the connection is not used again."""
    async with Peer(lambda _asked: Reply(body=BODY)) as registry, clients(config(registry.url())) as upstreams:
        for _ in range(2):
            assert await receive(upstreams, DIGEST) == BODY
        assert registry.connections == 2


async def test_a_shorter_body_keeps_the_connection() -> None:
    """Below the threshold aiohttp reads on, and the next request needs no handshake."""
    assert len(BODY) < LEAST
    async with Peer(lambda _asked: Reply(body=BODY)) as registry, clients(config(registry.url())) as upstreams:
        for _ in range(2):
            assert await receive(upstreams, DIGEST) == BODY
        assert registry.connections == 1


@pytest.mark.usefixtures("for_all")
async def test_over_tls(tmp_path: Path) -> None:
    """The same where TLS stands between."""
    ca, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(tls)
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with (
        Peer(lambda _asked: Reply(body=BODY), tls) as registry,
        clients(config(registry.url(), tls={"ca": str(tmp_path / "ca.pem")})) as upstreams,
    ):
        for _ in range(2):
            assert await receive(upstreams, DIGEST) == BODY
        assert registry.connections == 2


@pytest.mark.usefixtures("for_all")
@pytest.mark.parametrize("kept", [0, 1, 1000, len(BODY) - 1])
async def test_a_cut_gives_what_came_and_is_a_cut(kept: int) -> None:
    """No byte that had arrived is lost: the resume begins where the cut was."""
    got = bytearray()
    async with (
        Peer(lambda _asked: Reply(body=BODY, cut_after=kept)) as registry,
        clients(config(registry.url())) as upstreams,
        upstreams.get_blob(source(), DIGEST) as body,
    ):
        with pytest.raises(UpstreamUnavailable) as caught:
            await collect(body, got)
    assert caught.value.failure is Failure.CUT
    assert got == BODY[:kept]


@pytest.mark.usefixtures("for_all")
async def test_more_than_was_told_is_not_taken() -> None:
    """Bytes behind the body's end stay where they are."""
    reply = Reply(headers=[("Content-Length", str(len(BODY)))], body=BODY + b"more", length=False)
    async with Peer(lambda _asked: reply) as registry, clients(config(registry.url())) as upstreams:
        assert await receive(upstreams, DIGEST) == BODY


@pytest.mark.usefixtures("for_all")
async def test_a_stall_ends_after_its_time() -> None:
    """Silence in the middle of a body is not waited for longer than with the reader."""
    gate = asyncio.Event()
    got = bytearray()
    async with Peer(lambda _asked: Reply(body=BODY, gate=gate, gate_after=1000)) as registry:
        given = config(registry.url(), timeouts={"stall": "100ms"})
        async with clients(given) as upstreams, upstreams.get_blob(source(), DIGEST) as body:
            with pytest.raises(UpstreamTimeout):
                await collect(body, got)
        gate.set()
    assert got == BODY[:1000]


@pytest.mark.usefixtures("for_all")
@pytest.mark.parametrize("after", [0, 1000])
async def test_a_reader_that_is_cancelled_leaves_nothing(after: int) -> None:
    """Cancelled while it waits, before the first byte and after: the connection goes with it."""
    gate, waits = asyncio.Event(), asyncio.Event()

    async def pull() -> None:
        async with upstreams.get_blob(source(), DIGEST) as body:
            waits.set()
            await collect(body, bytearray())

    async with (
        Peer(lambda _asked: Reply(body=BODY, gate=gate, gate_after=after)) as registry,
        clients(config(registry.url())) as upstreams,
    ):
        pulling = asyncio.create_task(pull())
        await waits.wait()
        pulling.cancel()
        await asyncio.wait([pulling])
        assert pulling.cancelled()
        gate.set()
        assert await receive(upstreams, DIGEST) == BODY


class Stub(asyncio.Transport):
    """A transport that notes whether it may read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


async def test_who_does_not_take_is_not_read_for() -> None:
    """One buffer fills while nobody takes; then nothing is read until somebody does."""
    transport = Stub()
    intake = Intake(transport, asyncio.Protocol(), b"", 3 * BUFFER)
    reads = []
    for size in (BUFFER - ROOM, 1):  # after the second, what is left is too little to read into
        intake.buffer_updated(size)
        reads.append(transport.reads)
    assert reads == [True, False]
    assert len(await intake.take()) == BUFFER - ROOM + 1
    assert transport.reads
    assert len(intake.get_buffer(-1)) == BUFFER  # another one: the first is whose who took it


async def test_small_pieces_share_a_buffer() -> None:
    """An upstream that sends little at a time costs memory for what it sent, not a buffer for each piece."""
    intake = Intake(Stub(), asyncio.Protocol(), b"", 3 * BUFFER)
    taken: list[Buffer] = []
    for _ in range(100):
        intake.get_buffer(-1)[:1000] = bytes([len(taken)]) * 1000
        intake.buffer_updated(1000)
        taken.append(await intake.take())
    assert [bytes(piece) for piece in taken] == [bytes([number]) * 1000 for number in range(100)]
    assert len({id(piece.obj) for piece in taken if isinstance(piece, memoryview)}) == 1


async def test_the_last_buffer_takes_no_byte_too_many() -> None:
    """Where a body ends, reading ends: what the upstream sends behind it is not taken for content."""
    transport = Stub()
    intake = Intake(transport, asyncio.Protocol(), b"ab", 3)
    assert len(intake.get_buffer(-1)) == 3
    intake.get_buffer(-1)[:] = b"cde"
    intake.buffer_updated(3)
    assert not transport.reads
    assert [bytes(await intake.take()) for _ in range(3)] == [b"ab", b"cde", b""]
    assert not transport.reads


async def whole(intake: Intake, number: int) -> Buffer:
    """Fill a buffer with one byte's value; what is taken of it."""
    room = intake.get_buffer(-1)
    room[:] = bytes([number]) * len(room)
    intake.buffer_updated(len(room))
    return await intake.take()


@pytest.mark.parametrize("kept", [0, 1, SPARE, 3 * SPARE])
async def test_a_buffer_is_filled_again_once_nobody_looks_at_it(kept: int) -> None:
    """Who holds the least part of one, a slice of a slice, keeps its bytes; while those are few, so are buffers."""
    count = 10 * SPARE
    intake = Intake(Stub(), asyncio.Protocol(), b"", count * BUFFER)
    held: list[Buffer] = []
    rooms: dict[int, object] = {}
    for number in range(count):
        piece = await whole(intake, number)
        assert isinstance(piece, memoryview)
        rooms[id(piece.obj)] = piece.obj
        held.append(piece[5:][-1:])
        del piece, held[: len(held) - kept]
        assert [bytes(one)[0] for one in held] == list(range(number + 1 - len(held), number + 1))
    assert (len(rooms) <= SPARE) == (kept <= SPARE)


async def test_a_buffer_that_is_filled_again_ends_with_the_body() -> None:
    """It may be larger than what is left."""
    intake = Intake(Stub(), asyncio.Protocol(), b"", SPARE * BUFFER + 3)
    for number in range(SPARE):
        await whole(intake, number)
    assert len(intake.get_buffer(-1)) == 3
