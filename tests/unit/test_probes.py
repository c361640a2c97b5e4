"""Breakers over the wire: who is asked while a circuit is open, by whom, and what the others hear. The clock is turned
by hand.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from proxy.errors import Failure, UpstreamDenied, UpstreamFault, UpstreamLied, UpstreamNotFound, UpstreamUnavailable
from proxy.tasks import Tasks
from proxy.upstream.breaker import Breaker
from proxy.upstream.client import Clients
from proxy.upstream.prober import Prober
from tests.support.clock import Clock
from tests.unit.upstream_peers import NAME, Asked, Peer, Reply, clients, config, digest_of, receive, source, until

MANIFEST = b'{"schemaVersion":2}'
PING = ("GET", "/v2/")


class Upstream(Peer):
    """A registry that is down until told; its pings are counted apart from what clients want."""

    def __init__(self) -> None:
        super().__init__(self.serve)
        self.down: Reply | None = Reply(503)
        self.down_ping: Reply | None = Reply(503)

    def serve(self, asked: Asked) -> Reply:
        if (asked.method, asked.target) == PING:
            return self.down_ping or Reply()
        return self.down or Reply(body=MANIFEST)

    @property
    def pings(self) -> int:
        return sum((asked.method, asked.target) == PING for asked in self.asked)

    def up(self) -> None:
        self.down = self.down_ping = None


@asynccontextmanager
async def left_alone(upstream: Upstream, clock: Clock, *more: str, **keys: Any) -> AsyncIterator[Clients]:
    """Clients whose first endpoint is left alone since a moment ago; the next probe is due in 10 s."""
    breaker = {"failures": 3, "reset_after": "10s"}
    settings = config(upstream.url(), *more, breaker=breaker, **keys)
    async with clients(settings, monotonic=clock, sleep=clock.sleep) as upstreams:
        for tag in "ab":
            with pytest.raises(UpstreamUnavailable):
                await upstreams.get_manifest(source(endpoint=upstream.url()), tag)
        assert upstreams.endpoints(NAME)[0].breaker.state == "open"
        upstream.asked.clear()
        yield upstreams


async def rested(clock: Clock, sleepers: int = 1) -> None:
    """Wait until so many tasks sleep by the clock."""
    await until(lambda: len(clock.sleeping) == sleepers)


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


@pytest.mark.parametrize(
    ("reply", "error", "opens"),
    [
        pytest.param(Reply(500), UpstreamUnavailable, True, id="500"),
        pytest.param(Reply(raw=b""), UpstreamUnavailable, True, id="closed"),
        pytest.param(Reply(404), UpstreamNotFound, False, id="404"),
        pytest.param(Reply(403), UpstreamDenied, False, id="403"),
        pytest.param(Reply(raw=b"junk\r\n\r\n"), UpstreamLied, False, id="junk"),
        pytest.param(
            Reply(headers=[("Content-Type", "text/html")], body=b"<html>"), UpstreamLied, False, id="a web page"
        ),
    ],
)
async def test_what_opens_a_circuit(reply: Reply, error: type[UpstreamFault], opens: bool, clock: Clock) -> None:
    """Outages do, each try once; what an upstream that is alive says does not."""
    async with (
        Peer(lambda _asked: reply) as registry,
        clients(config(registry.url(), breaker={"failures": 3}), monotonic=clock, sleep=clock.sleep) as upstreams,
    ):
        for tag in "abc":
            with pytest.raises(error):
                await upstreams.get_manifest(source(), tag)
        assert upstreams.endpoints(NAME)[0].breaker.is_open is opens
        if opens:
            assert len(registry.asked) == 3


async def test_a_body_that_never_begins_counts_and_one_that_is_cut_does_not(clock: Clock) -> None:
    """200 and then nothing is an outage; a long body that breaks off goes on by Range, and its endpoint is alive."""
    body = b"x" * 1000
    replies = {"reply": Reply(body=body, cut_after=0)}
    async with (
        Peer(lambda _asked: replies["reply"]) as registry,
        clients(config(registry.url(), breaker={"failures": 3}), monotonic=clock, sleep=clock.sleep) as upstreams,
    ):
        breaker = upstreams.endpoints(NAME)[0].breaker
        replies["reply"] = Reply(body=body, cut_after=10)
        for number in range(5):
            with pytest.raises(UpstreamUnavailable):
                await receive(upstreams, digest_of(b"%d" % number))
        assert not breaker.is_open
        replies["reply"] = Reply(body=body, cut_after=0)
        for number in range(5, 8):
            with pytest.raises(UpstreamUnavailable):
                await receive(upstreams, digest_of(b"%d" % number))
        assert breaker.is_open


async def test_leaving_clients_decide_nothing(clock: Clock) -> None:
    """Cancelled in mid-request and in mid-body, with a breaker of one failure: closed, and no slot is held."""
    reached, gate = asyncio.Event(), asyncio.Event()

    async def hold(asked: Asked) -> Reply:
        if "/blobs/" in asked.target:
            return Reply(body=b"x" * 100, gate=gate, gate_after=10)
        reached.set()
        await gate.wait()
        return Reply()

    async def read_on(upstreams: Clients) -> None:
        async with upstreams.get_blob(source(), digest_of(b"")) as body:
            async for _ in body.chunks:
                reached.set()

    async with Peer(hold) as registry, clients(config(registry.url(), breaker={"failures": 1})) as upstreams:
        endpoint = upstreams.endpoints(NAME)[0]
        for _ in range(3):
            for work in (upstreams.get_manifest(source(), "1"), read_on(upstreams)):
                async with Tasks() as tasks:
                    reached.clear()
                    tasks.start(work, name="leaver")
                    await reached.wait()
        assert (endpoint.breaker.state, endpoint.slots.used) == ("closed", 0)


async def test_who_waits_for_a_silent_upstream_is_told_when_its_circuit_opens() -> None:
    """Two requests time out and open the circuit: those sent a moment later, and those that wait for a slot, end then,
    not each after its own time; and a new one waits for no slot.
    """
    settings: dict[str, Any] = {"breaker": {"failures": 2}, "max_connections": 4, "timeouts": {"headers": "300ms"}}
    reached, hung = asyncio.Event(), []

    async def hang(asked: Asked) -> Reply:
        hung.append(asked.target)
        if len(hung) == 2:
            reached.set()
        await asyncio.Event().wait()
        return Reply()

    async with Peer(hang) as registry, clients(config(registry.url(), **settings)) as upstreams, Tasks() as tasks:

        def ask(tag: str) -> "asyncio.Task[object]":
            return tasks.start(upstreams.get_manifest(source(), tag), name="client", report=False)

        early = [ask(tag) for tag in "ab"]
        await reached.wait()
        await asyncio.wait(early, timeout=0.2)  # well into their time: what comes now has most of its own before it
        late = [ask(tag) for tag in "cdefgh"]
        await asyncio.wait(early)
        endpoint = upstreams.endpoints(NAME)[0]
        await asyncio.wait(late)
        assert endpoint.breaker.is_open
        fault = endpoint.standing.state().last_fault
        assert fault is not None
        assert fault.failure is Failure.TIMEOUT  # what it did, not what followed
        told = [one.exception() for one in late]
        assert all(isinstance(one, UpstreamUnavailable) and one.failure is Failure.LEFT_ALONE for one in told)
        assert len(hung) <= 4
        with pytest.raises(UpstreamUnavailable):
            await upstreams.get_manifest(source(), "new")
        assert endpoint.slots.used == 0


async def test_those_who_wait_are_told_one_after_the_other() -> None:
    """In the order in which they came, those for an answer and those for a slot: behind each may stand a crowd."""
    settings: dict[str, Any] = {"breaker": {"failures": 1}, "max_connections": 4, "timeouts": {"headers": "100s"}}
    asked, told = asyncio.Semaphore(0), list[str]()

    async def hang(_asked: Asked) -> Reply:
        asked.release()
        await asyncio.Event().wait()
        return Reply()

    async with Peer(hang) as registry, clients(config(registry.url(), **settings)) as upstreams, Tasks() as tasks:

        async def ask(tag: str) -> None:
            with pytest.raises(UpstreamUnavailable, match="left alone"):
                await upstreams.get_manifest(source(), tag)
            told.append(tag)

        running = [tasks.start(ask(tag), name="client") for tag in "abcdefgh"]
        for _ in range(4):
            await asked.acquire()
        upstreams.endpoints(NAME)[0].breaker.enter().failed()
        await asyncio.wait(running)
        assert told == list("abcdefgh")
        assert upstreams.endpoints(NAME)[0].slots.used == 0


async def test_an_endpoints_state_can_be_looked_at(clock: Clock) -> None:
    """Open since, next probe, last fault and last answer: what health and `explain` tell."""
    async with Upstream() as upstream, left_alone(upstream, clock) as upstreams:
        clock.advance(3)
        [state] = upstreams.states(NAME)
        assert (state.circuit, state.open_for_s, state.next_probe_s) == ("open", 3.0, 7.0)
        assert state.last_fault is not None
        assert (state.last_fault.failure, state.last_fault.ago_s) == (Failure.SERVER_ERROR, 3.0)
        assert state.answered_ago_s is None
        upstream.up()
        await rested(clock)
        clock.advance(7)
        await until(lambda: not upstreams.endpoints(NAME)[0].breaker.is_open)
        await upstreams.get_manifest(source(), "1")
        [state] = upstreams.states(NAME)
        assert (state.circuit, state.open_for_s, state.next_probe_s, state.last_fault) == ("closed", None, None, None)
        assert state.answered_ago_s == 0.0


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
