"""Probes over the wire: who is asked while a circuit is open, by whom, and what brings an endpoint back."""

import asyncio

import pytest

from proxy.errors import Failure, UpstreamUnavailable
from proxy.tasks import Tasks
from proxy.upstream.breaker import Breaker
from proxy.upstream.prober import Prober
from tests.support.clock import Clock
from tests.support.waiting import until
from tests.unit.upstream_circuits import MANIFEST, PING, Upstream, left_alone, rested
from tests.unit.upstream_peers import NAME, Asked, Peer, Reply, config, source


async def test_an_open_circuit_refuses_at_once_and_asks_nobody(clock: Clock) -> None:
    """A hundred clients are told when to come back, and the upstream hears of none of them."""
    async with Upstream() as upstream, left_alone(upstream, clock) as upstreams:
        clock.advance(4)
        for number in range(100):
            with pytest.raises(UpstreamUnavailable) as refused:
                await upstreams.get_manifest(source(), f"{number}")
            assert refused.value.failure is Failure.LEFT_ALONE
            assert refused.value.retry_after_s == 6.0
        assert upstream.asked == []
        assert await upstreams.ping(NAME) == {upstream.url(): "upstream_unavailable"}


async def test_the_probe_runs_behind_everybody(clock: Clock) -> None:
    """While a probe hangs, clients are refused at once; its answer alone lets them through again."""
    gate, reached = asyncio.Event(), asyncio.Event()

    async def slow(asked: Asked) -> Reply:
        if (asked.method, asked.target) != PING:
            return Reply(body=MANIFEST)
        reached.set()
        await gate.wait()
        return Reply(401)

    async with Upstream() as upstream, left_alone(upstream, clock) as upstreams:
        upstream.answer = slow
        await rested(clock)
        clock.advance(10)
        await reached.wait()
        assert upstreams.endpoints(NAME)[0].breaker.state == "half-open"
        for _ in range(10):
            with pytest.raises(UpstreamUnavailable):
                await upstreams.get_manifest(source(), "1")
        assert (upstream.pings, len(upstream.asked)) == (1, 1)
        gate.set()
        await until(lambda: not upstreams.endpoints(NAME)[0].breaker.is_open)
        assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST


async def test_probes_come_one_an_interval_and_end_with_the_trouble(clock: Clock) -> None:
    """Down for long: one `GET /v2/` each 10, 20, 40 s. Up again: one more, and then none at all."""
    async with Upstream() as upstream, left_alone(upstream, clock) as upstreams:
        for expected, wait_s in enumerate((10, 20, 40, 40)):
            await rested(clock)
            assert clock.sleeping == [wait_s]
            clock.advance(wait_s - 1)
            assert upstream.pings == expected
            clock.advance(1)
            await until(lambda: upstream.pings > expected)  # noqa: B023 - waited for at once
        await rested(clock)
        upstream.up()
        clock.advance(40)
        await rested(clock, 0)
        await until(lambda: not upstreams.endpoints(NAME)[0].breaker.is_open)
        assert {(asked.method, asked.target) for asked in upstream.asked} == {PING}
        clock.advance(3600)
        assert (upstream.pings, clock.sleeping) == (5, [])


async def test_an_endpoint_that_pings_and_fails_is_not_hammered(clock: Clock) -> None:
    """`/v2/` says 200 while all else says 503: each probe lets one client's failure through, not five."""
    async with Upstream() as upstream, left_alone(upstream, clock) as upstreams:
        upstream.down_ping = None
        await rested(clock)
        clock.advance(10)
        await until(lambda: not upstreams.endpoints(NAME)[0].breaker.is_open)
        upstream.asked.clear()
        for number in range(20):
            with pytest.raises(UpstreamUnavailable):
                await upstreams.get_manifest(source(), f"{number}")
        assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    ("reply", "is_back"),
    [
        pytest.param(Reply(200), True, id="200"),
        pytest.param(Reply(401), True, id="401"),
        pytest.param(Reply(404), True, id="404"),
        pytest.param(Reply(429), True, id="429 is no outage"),
        pytest.param(Reply(502), False, id="502"),
        pytest.param(Reply(raw=b""), False, id="closed"),
        pytest.param(Reply(raw=b"junk\r\n\r\n"), True, id="junk is bad content, no outage"),
    ],
)
async def test_what_brings_an_endpoint_back(reply: Reply, is_back: bool, clock: Clock) -> None:
    """Any answer below 500: the breaker knows outages only."""
    async with Upstream() as upstream, left_alone(upstream, clock) as upstreams:
        upstream.down_ping = reply
        await rested(clock)
        clock.advance(10)
        await until(lambda: upstream.pings > 0)
        breaker = upstreams.endpoints(NAME)[0].breaker
        await until(lambda: breaker.state != "half-open")
        assert breaker.is_open is not is_back


async def test_another_endpoint_serves_meanwhile_and_the_first_one_takes_over_again(clock: Clock) -> None:
    """Healthy ones first, in their order; a pin stays with its endpoint and fails clearly."""
    async with (
        Upstream() as first,
        Peer(lambda _asked: Reply(body=MANIFEST)) as second,
        left_alone(first, clock, second.url()) as upstreams,
    ):
        assert (await upstreams.get_manifest(source(), "1")).origin == second.url()
        assert first.asked == []
        with pytest.raises(UpstreamUnavailable) as refused:
            await upstreams.get_manifest(source(endpoint=first.url()), "1")
        assert refused.value.failure is Failure.LEFT_ALONE
        assert upstreams.in_trouble(source())
        assert not upstreams.in_trouble(source(endpoint=second.url()))
        first.up()
        await rested(clock)
        clock.advance(10)
        await until(lambda: not upstreams.in_trouble(source()))
        assert (await upstreams.get_manifest(source(), "2")).origin == first.url()


async def test_stopping_ends_the_probe_under_way(clock: Clock) -> None:
    """A probe that hangs keeps nobody from stopping, and none is sent after it."""
    reached = asyncio.Event()

    async def hang(asked: Asked) -> Reply:
        reached.set()
        await asyncio.Event().wait()
        return Reply()

    async with Upstream() as upstream:
        async with left_alone(upstream, clock):
            upstream.answer = hang
            await rested(clock)
            clock.advance(10)
            await reached.wait()
        assert clock.sleeping == []


async def test_a_probe_that_fails_by_our_own_fault_is_not_the_last(clock: Clock) -> None:
    """Whatever a probe raises, the next one is due: an endpoint is never left alone for ever."""
    settings = config("http://127.0.0.1:1", breaker={"failures": 1, "reset_after": "10s"}).upstreams[NAME].breaker
    breaker = Breaker(settings, monotonic=clock, rng=lambda: 0.0)
    breaker.enter().failed()
    outcomes = iter([ValueError("a fault of ours"), None])

    async def ping() -> int:
        if (error := next(outcomes)) is not None:
            raise error
        return 401

    async with Tasks() as tasks:
        Prober("it", breaker, ping, tasks, clock.sleep).wake()
        for wait_s in (10, 20):
            await rested(clock)
            assert breaker.state == "open"
            clock.advance(wait_s)
        await until(lambda: not breaker.is_open)


async def test_a_probe_that_found_no_descriptor_says_nothing(clock: Clock) -> None:
    """Nobody was asked: the endpoint is left alone as before, and asked in a moment."""
    settings = config("http://127.0.0.1:1", breaker={"failures": 1, "reset_after": "10s"}).upstreams[NAME].breaker
    breaker = Breaker(settings, monotonic=clock, rng=lambda: 0.0)
    breaker.enter().failed()
    outcomes = iter([UpstreamUnavailable(NAME, "no descriptor", 1.0, failure=Failure.DESCRIPTORS), None])

    async def ping() -> int:
        if (error := next(outcomes)) is not None:
            raise error
        return 401

    async with Tasks() as tasks:
        Prober("it", breaker, ping, tasks, clock.sleep).wake()
        for wait_s in (10, 1):
            await rested(clock)
            assert breaker.is_open
            clock.advance(wait_s)
        await until(lambda: not breaker.is_open)
