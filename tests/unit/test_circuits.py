"""Breakers over the wire: what opens a circuit, what does not, and what those who wait then hear."""

import asyncio
from typing import Any

import pytest

from proxy.errors import Failure, UpstreamDenied, UpstreamFault, UpstreamLied, UpstreamNotFound, UpstreamUnavailable
from proxy.tasks import Tasks
from proxy.upstream.client import Clients
from tests.support.clock import Clock
from tests.support.waiting import until
from tests.unit.upstream_circuits import Upstream, left_alone, rested
from tests.unit.upstream_peers import NAME, Asked, Peer, Reply, clients, config, digest_of, receive, source


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
