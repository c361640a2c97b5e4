"""The gate that a 429 closes: how long, for whom, and who goes first afterwards. The clock is turned by hand."""

import asyncio

import pytest

from proxy.errors import UpstreamThrottled
from proxy.tasks import Tasks
from proxy.upstream.base import Priority
from proxy.upstream.gate import Gate, GateClosed, Gates, Limit
from tests.support.waiting import turns, until
from tests.unit.upstream_peers import NAME, Asked, Hand, Peer, Reply, clients, config, digest_of, receive, source

MANIFEST = b'{"schemaVersion":2}'
PULL_LIMIT = Reply(
    429, body=b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}'
)


def gate(hand: Hand, limit: Limit = Limit.REQUESTS) -> Gate:
    return Gate(limit, monotonic=hand, rng=lambda: 0.0)


async def test_a_gate_is_open_until_it_is_struck() -> None:
    """Then it is closed for as long as the upstream said, and says how long is left."""
    hand = Hand()
    one = gate(hand)
    (await one.enter()).answered()
    assert one.strike(30.0) == 30.0
    hand.now += 20
    with pytest.raises(GateClosed) as closed:
        await one.enter()
    assert closed.value.left_s == 10.0
    hand.now += 10
    (await one.enter()).answered()
    assert one.left_s == 0.0


@pytest.mark.parametrize(
    ("told_s", "waits"),
    [
        pytest.param(None, [60, 120, 240, 480, 600, 600], id="not told"),
        pytest.param(0.0, [1, 2, 4, 8, 16, 32, 60, 60], id="none: no storm comes of it"),
        pytest.param(5.0, [5, 5, 5, 8, 16], id="too short, each time"),
        pytest.param(1e9, [3600, 3600], id="in thirty years"),
    ],
)
async def test_the_wait_is_bounded_and_grows(told_s: float | None, waits: list[float]) -> None:
    """Each 429 in a row makes the wait longer, up to a bound: nothing is eternal, and nothing is asked in a loop."""
    hand = Hand()
    one, found = gate(hand), []
    for _ in waits:
        found.append(one.strike(told_s))
        hand.now += found[-1]
        passage = await one.enter()
        passage.leave()
    assert found == waits


async def test_a_pull_limit_lasts_longer() -> None:
    """Docker Hub's pulls come back over six hours: a quarter of an hour first, an hour at most."""
    hand = Hand()
    one, found = gate(hand, Limit.PULLS), []
    for _ in range(4):
        found.append(one.strike(None))
        hand.now += found[-1]
    assert found == [900.0, 1800.0, 3600.0, 3600.0]


async def test_requests_that_were_under_way_strike_once() -> None:
    """Sixty answers of 429 at once are one limit: the wait does not double sixty times."""
    hand = Hand()
    one = gate(hand)
    assert [one.strike(None) for _ in range(60)] == [60.0] * 60
    assert one.strike(90.0) == 90.0


async def test_an_answer_that_is_welcome_forgets_the_strikes() -> None:
    """After a good answer the next limit begins with the first wait again."""
    hand = Hand()
    one = gate(hand)
    for _ in range(3):
        hand.now += one.strike(None)
    (await one.enter()).answered()
    assert one.strike(None) == 60.0


async def test_one_goes_first_after_the_wait_and_the_others_wait_for_its_word() -> None:
    """A crowd at a gate that has just opened costs one request, if that one hears 429 again."""
    hand = Hand()
    one = gate(hand)
    hand.now += one.strike(60.0)
    first = await one.enter()
    async with Tasks() as tasks:
        others = [tasks.start(one.enter(), name="other", report=False) for _ in range(100)]
        await turns()
        assert not any(other.done() for other in others)
        one.strike(60.0)
        first.leave()
        await asyncio.wait(others)
        assert all(isinstance(other.exception(), GateClosed) for other in others)


async def test_a_first_one_that_is_cancelled_lets_the_next_go_first() -> None:
    """Leaving says nothing of the limit: one more goes alone, and its good word lets all the others through."""
    hand = Hand()
    one = gate(hand)
    hand.now += one.strike(60.0)
    first = await one.enter()
    async with Tasks() as tasks:
        others = [tasks.start(one.enter(), name="other") for _ in range(5)]
        await turns()
        first.leave()
        await until(lambda: any(other.done() for other in others))
        [second] = [other for other in others if other.done()]
        (await second).answered()
        await asyncio.wait(others)
        assert [other.exception() for other in others] == [None] * 5


def test_gates_are_apart_by_server_credential_and_limit() -> None:
    """One user's limit is not another's; and who only looks sees what is closed."""
    gates = Gates(monotonic=Hand(), rng=lambda: 0.0)
    gates.at("a", "hub", Limit.PULLS).strike(5.0)
    others = [("a", None, Limit.PULLS), ("a", "hub", Limit.REQUESTS), ("b", "hub", Limit.PULLS)]
    assert [gates.at(*other).left_s for other in others] == [0.0, 0.0, 0.0]
    assert [(one.credentials, one.limit, one.left_s) for one in gates.closed("a")] == [("hub", Limit.PULLS, 5.0)]
    assert gates.closed("b") == []


# Over the wire


async def test_a_throttled_registry_is_asked_nothing_for_any_repository() -> None:
    """One 429 for one repository: nothing more is asked for another, by tag or blob, until the time it named."""
    hand = Hand()
    replies = {"reply": Reply(429, [("Retry-After", "30")])}
    async with (
        Peer(lambda _asked: replies["reply"]) as registry,
        clients(config(registry.url(), breaker={"failures": 1}), monotonic=hand) as upstreams,
    ):
        with pytest.raises(UpstreamThrottled):
            await upstreams.get_manifest(source(), "1")
        hand.now += 10
        for number in range(20):
            with pytest.raises(UpstreamThrottled) as throttled:
                await upstreams.get_manifest(source(f"team/app{number}"), "1")
            assert throttled.value.retry_after_s == 20.0
            with pytest.raises(UpstreamThrottled):
                await upstreams.head_manifest(source(f"team/app{number}"), "1")
            with pytest.raises(UpstreamThrottled):
                await receive(upstreams, digest_of(b"%d" % number))
        assert len(registry.asked) == 1
        [state] = upstreams.states(NAME)
        assert (state.circuit, [(one.limit, one.left_s) for one in state.throttled]) == ("closed", [("requests", 20.0)])
        hand.now += 20
        replies["reply"] = Reply(body=MANIFEST)
        assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST


async def test_the_pull_limit_stops_pulls_alone() -> None:
    """Docker Hub counts GET of manifests: tags are checked by HEAD and blobs flow, while no manifest is fetched."""
    hand = Hand()

    def serve(asked: Asked) -> Reply:
        if "/manifests/" in asked.target and asked.method == "GET":
            return PULL_LIMIT
        return Reply(body=MANIFEST)

    async with Peer(serve) as registry, clients(config(registry.url()), monotonic=hand) as upstreams:
        for repository in ("a/a", "b/b", "c/c"):
            with pytest.raises(UpstreamThrottled) as throttled:
                await upstreams.get_manifest(source(repository), "1")
            assert throttled.value.retry_after_s == 900.0
            assert (await upstreams.head_manifest(source(repository), "1")).size == len(MANIFEST)
            assert await receive(upstreams, digest_of(MANIFEST), source(repository)) == MANIFEST
        assert sum("/manifests/" in asked.target and asked.method == "GET" for asked in registry.asked) == 1


async def test_another_endpoint_serves_while_one_throttles() -> None:
    """A mirror of the same upstream has a quota of its own; a pin stays and fails clearly."""
    async with (
        Peer(lambda _asked: Reply(429, [("Retry-After", "30")])) as first,
        Peer(lambda _asked: Reply(body=MANIFEST)) as second,
        clients(config(first.url(), second.url())) as upstreams,
    ):
        for tag in "123":
            assert (await upstreams.get_manifest(source(), tag)).origin == second.url()
        assert len(first.asked) == 1
        with pytest.raises(UpstreamThrottled):
            await upstreams.get_manifest(source(endpoint=first.url()), "1")


async def test_a_crowd_at_an_opened_gate_costs_one_request() -> None:
    """A hundred clients for a hundred things when the time is up: one asks, hears 429, and all are told anew."""
    hand = Hand()
    async with (
        Peer(lambda _asked: Reply(429, [("Retry-After", "30")])) as registry,
        clients(config(registry.url()), monotonic=hand) as upstreams,
    ):
        with pytest.raises(UpstreamThrottled):
            await upstreams.get_manifest(source(), "0")
        hand.now += 30
        async with Tasks() as tasks:
            crowd = [
                tasks.start(upstreams.get_manifest(source(), f"{number}"), name="client", report=False)
                for number in range(100)
            ]
            await asyncio.wait(crowd)
        assert all(isinstance(one.exception(), UpstreamThrottled) for one in crowd)
        assert len(registry.asked) == 2


async def test_a_denial_in_name_that_is_a_limit_closes_the_gate() -> None:
    """Some registries say TOOMANYREQUESTS with 403."""
    reply = Reply(403, [("Retry-After", "30")], b'{"errors":[{"code":"TOOMANYREQUESTS"}]}')
    async with Peer(lambda _asked: reply) as registry, clients(config(registry.url())) as upstreams:
        for _ in range(3):
            with pytest.raises(UpstreamThrottled):
                await upstreams.get_manifest(source(), "1")
        assert len(registry.asked) == 1


async def test_storage_that_throttles_has_a_gate_of_its_own() -> None:
    """A CDN's 429 stops blobs there; tags of the registry are checked on."""
    async with Peer(lambda _asked: Reply(429, [("Retry-After", "30")])) as storage:

        def serve(asked: Asked) -> Reply:
            if "/blobs/" in asked.target:
                return Reply(307, [("Location", f"{storage.url()}/x")])
            return Reply(body=MANIFEST)

        async with Peer(serve) as registry, clients(config(registry.url())) as upstreams:
            for number in range(3):
                with pytest.raises(UpstreamThrottled):
                    await receive(upstreams, digest_of(b"%d" % number))
            assert len(storage.asked) == 1
            assert (await upstreams.head_manifest(source(), "1")).size == len(MANIFEST)


# Quota


def told(remaining: str, limit: str | None = "100;w=21600") -> Reply:
    lines = [("RateLimit-Remaining", remaining), ("Docker-RateLimit-Source", "192.0.2.7")]
    return Reply(headers=lines + ([] if limit is None else [("RateLimit-Limit", limit)]), body=MANIFEST)


@pytest.mark.parametrize(
    ("reply", "stops"),
    [
        pytest.param(told("21;w=21600"), False, id="above the reserve"),
        pytest.param(told("20;w=21600"), True, id="the reserve"),
        pytest.param(told("0;w=21600"), True, id="nothing left"),
        pytest.param(told("999999999999;w=1"), False, id="more than the limit"),
        pytest.param(told("-5"), False, id="negative"),
        pytest.param(told("many"), False, id="text"),
        pytest.param(told("5", limit=None), False, id="no limit told"),
        pytest.param(told("0", limit="0;w=0"), True, id="a limit of none"),
        pytest.param(Reply(body=MANIFEST), False, id="no headers"),
    ],
)
async def test_background_work_stops_at_the_reserve(reply: Reply, stops: bool) -> None:
    """A fifth of the pulls is left to clients; whatever the headers say, a client is never held back by them."""
    async with Peer(lambda _asked: reply) as registry, clients(config(registry.url())) as upstreams:
        await upstreams.get_manifest(source(), "1")
        assert await receive(upstreams, digest_of(MANIFEST)) == MANIFEST
        before = len(registry.asked)
        if stops:
            with pytest.raises(UpstreamThrottled) as held_back:
                await receive(upstreams, digest_of(MANIFEST), priority=Priority.BACKGROUND)
            assert 0 < (held_back.value.retry_after_s or 0) <= 600
            assert len(registry.asked) == before
        else:
            assert await receive(upstreams, digest_of(MANIFEST), priority=Priority.BACKGROUND) == MANIFEST
        assert await receive(upstreams, digest_of(MANIFEST)) == MANIFEST


async def test_a_reading_is_believed_for_its_window_and_no_longer() -> None:
    """An upstream that once said 0 and is then silent holds background work back for six hours, not for ever."""
    hand = Hand()
    replies = iter([told("0;w=999999999")])
    async with (
        Peer(lambda _asked: next(replies, Reply(body=MANIFEST))) as registry,
        clients(config(registry.url()), monotonic=hand) as upstreams,
    ):
        await upstreams.get_manifest(source(), "1")
        [quota] = upstreams.states(NAME)[0].quotas
        assert (quota.remaining, quota.limit, quota.source) == (0, 100, "192.0.2.7")
        hand.now += 6 * 3600 - 1
        with pytest.raises(UpstreamThrottled):
            await receive(upstreams, digest_of(MANIFEST), priority=Priority.BACKGROUND)
        hand.now += 1
        assert await receive(upstreams, digest_of(MANIFEST), priority=Priority.BACKGROUND) == MANIFEST
        assert upstreams.states(NAME)[0].quotas == ()
