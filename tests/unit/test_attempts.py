"""How often an upstream is asked: the retry, its budget, repeats, and where the rest of a body is fetched."""

import asyncio

import pytest

from proxy.errors import UpstreamDenied, UpstreamFault, UpstreamLied, UpstreamThrottled, UpstreamUnavailable
from proxy.tasks import Tasks
from proxy.upstream.attempts import FLOOR, Budget
from proxy.upstream.client import Clients
from tests.unit.upstream_peers import NAME, Asked, Hand, Peer, Reply, clients, config, digest_of, receive, source

MANIFEST = b'{"schemaVersion":2}'
NEVER_OPENS = {"failures": 1_000_000}


def test_a_budget_is_a_tenth_and_three_in_ten_seconds() -> None:
    """A thousand first tries earn a hundred retries, of which twenty can be saved up; the floor comes back."""
    hand = Hand()
    budget = Budget(hand)
    assert [budget.take() for _ in range(FLOOR + 2)] == [True] * FLOOR + [False] * 2
    hand.now += 9.9
    assert not budget.take()
    hand.now += 0.1
    assert budget.take()
    for _ in range(1000):
        budget.earn()
    assert sum(budget.take() for _ in range(100)) == 20 + FLOOR - 1


@pytest.mark.parametrize(
    "reply", [Reply(503), Reply(500), Reply(raw=b""), Reply(raw=b"HTTP/1.1 200 OK\r\nConte")], ids=repr
)
async def test_a_failure_before_the_first_byte_is_retried_once(reply: Reply) -> None:
    """One that passes is not seen by the client; one that stays costs two requests."""
    replies = iter([reply])
    async with (
        Peer(lambda _asked: next(replies, Reply(body=MANIFEST))) as registry,
        clients(config(registry.url())) as upstreams,
    ):
        assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST
        assert len(registry.asked) == 2
    async with Peer(lambda _asked: reply) as registry, clients(config(registry.url())) as upstreams:
        with pytest.raises(UpstreamUnavailable):
            await upstreams.get_manifest(source(), "1")
        assert len(registry.asked) == 2


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(Reply(503, [("Retry-After", "5")]), UpstreamUnavailable, id="503 that wants to be left alone"),
        pytest.param(Reply(403), UpstreamDenied, id="403"),
        pytest.param(Reply(429), UpstreamThrottled, id="429"),
        pytest.param(Reply(raw=b"junk\r\n\r\n"), UpstreamLied, id="junk"),
    ],
)
async def test_what_a_retry_would_not_mend_is_not_retried(reply: Reply, error: type[UpstreamFault]) -> None:
    """Denials, limits and lies are answers."""
    async with Peer(lambda _asked: reply) as registry, clients(config(registry.url())) as upstreams:
        upstreams.endpoints(NAME)[0].is_head_trusted = True
        with pytest.raises(error):
            await upstreams.get_manifest(source(), "1")
        assert sum("/manifests/" in asked.target for asked in registry.asked) == 1


async def test_the_pause_before_a_retry_is_jittered() -> None:
    """Those that one fault met together do not come back together."""
    chances, pauses = iter([0.0, 0.5, 1.0]), []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    async with (
        Peer(lambda _asked: Reply(503)) as registry,
        clients(config(registry.url(), breaker=NEVER_OPENS), rng=lambda: next(chances), sleep=sleep) as upstreams,
    ):
        for tag in "abc":
            with pytest.raises(UpstreamUnavailable):
                await upstreams.get_manifest(source(), tag)
    assert pauses == [0.0, 0.125, 0.25]


@pytest.mark.parametrize("things", [1, 10, 100, 1000])
async def test_a_storm_costs_a_tenth_more_than_what_is_asked_for(things: int) -> None:
    """Ten clients each for so many things of an upstream that says 503, its breaker set never to open: 1.1 times the
    things, and the floor.
    """
    hand = Hand()
    async with (
        Peer(lambda _asked: Reply(503)) as registry,
        clients(config(registry.url(), breaker=NEVER_OPENS), monotonic=hand) as upstreams,
    ):
        for _ in range(10):
            async with Tasks() as tasks:
                storm = [
                    tasks.start(upstreams.get_manifest(source(), f"{number}"), name="client", report=False)
                    for number in range(things)
                ]
                await asyncio.wait(storm)
            assert all(isinstance(one.exception(), UpstreamUnavailable) for one in storm)
        assert things <= len(registry.asked) <= 1.1 * things + FLOOR


@pytest.mark.parametrize("failures", [1, 5])
async def test_a_storm_ends_with_the_breaker(failures: int) -> None:
    """A thousand clients for a thousand things, one after the other: as many requests as the breaker takes to open."""
    async with (
        Peer(lambda _asked: Reply(503)) as registry,
        clients(config(registry.url(), breaker={"failures": failures}), monotonic=Hand()) as upstreams,
    ):
        for number in range(1000):
            with pytest.raises(UpstreamUnavailable):
                await upstreams.get_manifest(source(), f"{number}")
        assert len(registry.asked) == failures


async def test_a_repeat_is_answered_alike_for_a_second_then_for_two() -> None:
    """What has just failed is not asked for again at once; once its time is over it is, and the answer is taken."""
    hand = Hand()
    async with (
        Peer(lambda _asked: Reply(503)) as registry,
        clients(config(registry.url(), breaker=NEVER_OPENS), monotonic=hand) as upstreams,
    ):

        async def asked_again() -> bool:
            before = len(registry.asked)
            with pytest.raises(UpstreamUnavailable):
                await upstreams.get_manifest(source(), "1")
            return len(registry.asked) > before

        while await asked_again():  # until the floor is used up
            pass
        hand.now += 1.0
        assert not await asked_again()
        hand.now += 3.0
        assert await asked_again()
        registry.answer = lambda _asked: Reply(body=MANIFEST)
        hand.now += 10.0
        for _ in range(2):
            assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST


async def test_a_remembered_failure_keeps_no_frames() -> None:
    """What is told again is an error of its own, with the same facts: no call and no body hangs on it."""
    async with (
        Peer(lambda _asked: Reply(503, [("Retry-After", "7")])) as registry,
        clients(config(registry.url(), breaker=NEVER_OPENS), monotonic=Hand()) as upstreams,
    ):
        told = []
        for _ in range(6):
            with pytest.raises(UpstreamUnavailable) as refused:
                await upstreams.get_manifest(source(), "1")
            told.append(refused.value)
        first, last = told[0], told[-1]
        assert len({id(one) for one in told}) == 6
        assert (str(last), last.retry_after_s, last.failure) == (str(first), 7.0, first.failure)
        assert last.__context__ is None


async def test_another_endpoint_costs_no_retry() -> None:
    """With the first endpoint down every client is served by the second, whatever the budget."""
    async with (
        Peer(lambda _asked: Reply(503)) as first,
        Peer(lambda _asked: Reply(body=MANIFEST)) as second,
        clients(config(first.url(), second.url(), breaker={"failures": 5}), monotonic=Hand()) as upstreams,
    ):
        for number in range(50):
            assert (await upstreams.get_manifest(source(), f"{number}")).origin == second.url()
        assert (len(first.asked), len(second.asked)) == (5, 50)


# The rest of a body

BLOB = bytes(range(256)) * 1000


async def rest(upstreams: Clients, offset: int) -> tuple[str, bytes]:
    """What comes from `offset` on, and from where."""
    async with upstreams.get_blob(source(), digest_of(BLOB), offset=offset) as body:
        return body.origin, b"".join([chunk async for chunk in body.chunks])


def ranged(asked: Asked) -> Reply:
    """An honest answer to a Range from somewhere on."""
    start = int(asked.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    if not start:
        return Reply(body=BLOB)
    return Reply(206, [("Content-Range", f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}")], BLOB[start:])


async def test_the_rest_of_a_body_is_fetched_where_it_did_not_break_off() -> None:
    """The first endpoint breaks off in mid-body: the rest comes from the second by Range, other things still from the
    first; once whole, the next fetch goes to the first again.
    """

    def cut(asked: Asked) -> Reply:
        return Reply(body=BLOB, cut_after=1000) if "/blobs/" in asked.target else Reply(body=MANIFEST)

    async with (
        Peer(cut) as first,
        Peer(ranged) as second,
        clients(config(first.url(), second.url())) as upstreams,
    ):
        with pytest.raises(UpstreamUnavailable):
            await receive(upstreams, digest_of(BLOB))
        assert await rest(upstreams, 1000) == (second.url(), BLOB[1000:])
        assert (await upstreams.get_manifest(source(), "1")).origin == first.url()
        first.answer = ranged
        assert (await rest(upstreams, 0))[0] == first.url()


async def test_the_rest_comes_from_the_same_endpoint_if_there_is_no_other() -> None:
    """A pin never leaves its endpoint: there the rest is asked for again, without a limit while bytes come."""
    async with (
        Peer(lambda asked: Reply(**{**vars(ranged(asked)), "cut_after": 1000})) as first,
        Peer(ranged) as second,
        clients(config(first.url(), second.url())) as upstreams,
    ):
        pinned = source(endpoint=first.url())
        for number in range(50):
            async with upstreams.get_blob(pinned, digest_of(BLOB), offset=1000 * number) as body:
                with pytest.raises(UpstreamUnavailable):
                    async for _ in body.chunks:
                        pass
        assert (len(first.asked), len(second.asked)) == (50, 0)


async def test_a_rest_that_gains_nothing_comes_from_the_budget() -> None:
    """An endpoint that answers each Range and sends no byte is asked a few times, not for ever."""
    async with (
        Peer(lambda asked: Reply(**{**vars(ranged(asked)), "cut_after": 0})) as registry,
        clients(config(registry.url(), breaker=NEVER_OPENS), monotonic=Hand()) as upstreams,
    ):
        for _ in range(50):
            with pytest.raises(UpstreamUnavailable):
                await rest(upstreams, 1000)
        assert len(registry.asked) == 1 + FLOOR
