"""Bandwidth over bytes received: the schedule, whom it holds, and that nothing that arrived is lost or held back."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from proxy.errors import UpstreamTimeout, UpstreamUnavailable
from proxy.tasks import Tasks
from proxy.upstream.bandwidth import BURST_S, LOOK_AGAIN_S, Bandwidth, Pace
from proxy.upstream.base import Priority
from tests.support.clock import Clock
from tests.support.waiting import seen, settled, until
from tests.unit.upstream_peers import Hand, Peer, Reply, clients, config, digest_of, receive, source

KB = 1000


def test_a_schedule_is_what_was_charged() -> None:
    """What is charged must be paid at the rate; a little unused time is kept, hours of it are not."""
    hand = Hand()
    line = Bandwidth(100 * KB, monotonic=hand)
    line.charge(25 * KB)
    assert line.wait_s == 0.0  # BURST_S of it
    line.charge(100 * KB)
    assert line.wait_s == pytest.approx(1.0)
    line.charge(10_000 * KB)
    assert line.wait_s == pytest.approx(101.0)
    hand.now += 3600
    assert line.wait_s == 0.0
    line.charge(200 * KB)
    assert line.wait_s == pytest.approx(2.0 - BURST_S)


def over(clock: Clock, *readings: asyncio.Future[Any]) -> Callable[[], bool]:
    """Whether all these are done; each look turns the clock to where the first one wakes that sleeps by it."""

    def look() -> bool:
        if clock.sleeping:
            clock.advance(clock.sleeping[0])
        return all(reading.done() for reading in readings)

    return look


async def slept(clock: Clock, pace: Pace, size: int) -> float:
    """How long a reader of `size` bytes is held, by the clock."""
    began = clock()
    async with Tasks() as tasks:
        reading = tasks.start(pace.received(size), name="reader")
        await until(over(clock, reading))
    return clock() - began


async def test_readers_share_a_line_fairly(clock: Clock) -> None:
    """Small and large amounts wait in the order they came: nobody is overtaken for ever."""
    line = Bandwidth(100 * KB, monotonic=clock)
    waits = [await slept(clock, Pace(line, sleep=clock.sleep), size * KB) for size in (100, 1, 500, 1)]
    assert waits == pytest.approx([1.0 - BURST_S, 0.01, 5.0, 0.01])


async def test_hydration_is_held_until_a_client_waits_for_it(clock: Clock) -> None:
    """A client that joins ends the wait within a moment, and from then on the background's limit is not charged."""
    background = Bandwidth(1 * KB, monotonic=clock)
    wanted: list[str] = []
    pace = Pace(None, background, is_urgent=lambda: bool(wanted), sleep=clock.sleep)
    async with Tasks() as tasks:
        reading = tasks.start(pace.received(3600 * KB), name="reader")
        await until(lambda: len(clock.sleeping) == 1)
        assert clock.sleeping == [pytest.approx(LOOK_AGAIN_S, abs=1e-6)]
        wanted.append("a client")
        clock.advance(LOOK_AGAIN_S)
        await reading
    owed_s = background.wait_s
    assert await slept(clock, pace, 3600 * KB) == 0.0
    assert background.wait_s == owed_s


# Over the wire

BODY = bytes(range(256)) * 4000  # about 1 MB


async def served(clock: Clock, gets: list[asyncio.Task[bytes]]) -> float:
    """Turn the clock whenever all that can be read was read; the seconds until every body is whole."""
    began = clock()
    await seen(over(clock, *gets), every_s=0.001)  # real sockets: their turn of the loop comes when it comes
    return clock() - began


@pytest.mark.parametrize("readers", [1, 4])
async def test_an_upstream_is_held_to_its_bandwidth(readers: int, clock: Clock) -> None:
    """All bodies together come at the rate, each of them whole."""
    settings = config("http://x.test:1", max_bandwidth="100KB")
    async with Peer(lambda _asked: Reply(body=BODY)) as registry:
        settings = config(registry.url(), max_bandwidth="100KB")
        async with clients(settings, monotonic=clock, sleep=clock.sleep) as upstreams, Tasks() as tasks:
            gets = [tasks.start(receive(upstreams, digest_of(b"%d" % number)), name="get") for number in range(readers)]
            seconds = await served(clock, gets)
            assert [await get for get in gets] == [BODY] * readers
    assert seconds == pytest.approx(readers * len(BODY) / (100 * KB), abs=2 * BURST_S)


async def test_hydration_has_a_bandwidth_of_its_own(clock: Clock) -> None:
    """Background bodies come at its rate, and a client's beside them as fast as it can."""
    async with Peer(lambda _asked: Reply(body=BODY)) as registry:
        settings = config(registry.url()).replaced(
            hydrate=config("http://x.test:1").hydrate.replaced(max_bandwidth=100 * KB)
        )
        async with clients(settings, monotonic=clock, sleep=clock.sleep) as upstreams, Tasks() as tasks:
            behind = receive(upstreams, digest_of(b"1"), priority=Priority.BACKGROUND)
            background = tasks.start(behind, name="get")
            assert await receive(upstreams, digest_of(b"2")) == BODY
            assert await served(clock, [background]) >= 8.0


async def test_a_cut_while_a_reader_waits_loses_no_byte(clock: Clock) -> None:
    """What had arrived before the cut is given out, though its reader was held meanwhile; then the cut is told."""
    async with Peer(lambda _asked: Reply(body=BODY, cut_after=200_000)) as registry:
        settings = config(registry.url(), max_bandwidth="10KB")
        got = bytearray()

        async def read() -> None:
            async with upstreams.get_blob(source(), digest_of(BODY)) as body:
                async for chunk in body.chunks:
                    got.extend(chunk)

        async with clients(settings, monotonic=clock, sleep=clock.sleep) as upstreams, Tasks() as tasks:
            reading = tasks.start(read(), name="get", report=False)
            await seen(over(clock, reading), every_s=0.001)
            assert isinstance(reading.exception(), UpstreamUnavailable)
    assert bytes(got) == BODY[:200_000]


async def test_a_small_body_is_counted_and_not_held(clock: Clock) -> None:
    """A manifest behind a line in debt comes at once: tags do not wait for layers."""
    async with Peer(lambda _asked: Reply(body=b'{"schemaVersion":2}')) as registry:
        settings = config(registry.url(), max_bandwidth="10B")
        async with clients(settings, monotonic=clock, sleep=clock.sleep) as upstreams:
            for tag in "abc":
                await upstreams.get_manifest(source(), tag)
            line = upstreams.endpoints(source().upstream)[0].wire.line
            assert line is not None
            assert line.wait_s > 3.0


@pytest.mark.parametrize(("step", "dripped"), [(1, True), (64 * KB, False)], ids=["a byte", "64 kB"])
async def test_an_upstream_that_drips_is_as_good_as_silent(step: int, dripped: bool) -> None:
    """A byte every eleven seconds keeps no connection for ever, though `stall` is thirty; 64 kB as often may."""
    hand = Hand()

    async def drip() -> None:
        hand.now += 11.0
        await settled()  # the reader's turn: what counts is the clock, which nobody else turns

    async with (
        Peer(lambda _asked: Reply(body=b"x" * 20 * step, drip=drip)) as registry,
        clients(config(registry.url(), timeouts={"stall": "30s"}), monotonic=hand) as upstreams,
    ):
        get = receive(upstreams, digest_of(b""))
        if dripped:
            with pytest.raises(UpstreamTimeout, match="it sent"):
                await get
        else:
            assert len(await get) == 20 * step
