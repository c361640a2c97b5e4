"""Tokens: the realm's answers, their lifetimes, and how the client uses them."""

import asyncio
from pathlib import Path

import pytest
from yarl import URL

from proxy.tasks import Tasks
from proxy.upstream.token import TokenKey, parse
from tests.unit.upstream_peers import Asked, Hand, Peer, Reply, clients, config, source
from tests.unit.upstream_tokens import BASIC, MANIFEST, Registry, challenge, token


@pytest.mark.parametrize(
    ("body", "usable_s"),
    [
        (b'{"token":"t"}', 48.0),
        (b'{"access_token":"t","expires_in":300}', 270.0),
        (b'{"token":"t","expires_in":60,"issued_at":"1999-01-01T00:00:00Z"}', 48.0),
        (b'{"token":"t","expires_in":-5}', 0.0),
        (b'{"token":"t","expires_in":0}', 0.0),
        (b'{"token":"t","expires_in":1e300}', 86370.0),
        (b'{"token":"t","expires_in":"600"}', 48.0),
        (b'{"token":"t","expires_in":true}', 48.0),
        (b'{"token":"","access_token":"t"}', 48.0),
    ],
)
def test_a_lifetime_is_bounded_and_ends_early(body: bytes, usable_s: float) -> None:
    """60 s if none is told, none if it is over, a day at most; a margin for clocks and the road."""
    found = parse(body)
    assert (found.value, found.usable_s) == ("t", usable_s)
    assert "t'" not in repr(found)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"token":1}',
        b'{"token":"a\\r\\nX: y"}',
        b'{"token":"a b"}',
        b'{"token":"\\u00e9"}',
        b"",
    ],
)
def test_what_is_no_token_is_refused(body: bytes) -> None:
    """No text that could break out of a header becomes one."""
    with pytest.raises(ValueError, match=r".*"):
        parse(body)


def test_the_realm_keeps_its_own_query() -> None:
    """Service and scope stand behind what the realm already asks; a missing service is left out."""
    key = TokenKey(URL("https://r.test/t?a=%2Fb", encoded=True), None, "repository:a/b:pull", None)
    assert str(key.url) == "https://r.test/t?a=%2Fb&scope=repository%3Aa%2Fb%3Apull"
    assert str(TokenKey(URL("https://r.test/t"), "s", None, None).url) == "https://r.test/t?service=s"
    assert str(TokenKey(URL("https://r.test/t"), None, None, None).url) == "https://r.test/t"


async def test_a_token_is_fetched_once_for_a_crowd_and_again_when_it_nears_its_end() -> None:
    """Twenty clients at once cost one token; the next repository goes straight to the realm; time makes a new one."""
    hand, gate, reached = Hand(), asyncio.Event(), asyncio.Event()

    async def issue(_asked: Asked) -> Reply:
        reached.set()
        await gate.wait()
        return token("good", 100)

    async with (
        Peer(issue) as realm,
        Registry(realm, "good") as registry,
        clients(config(registry.url()), monotonic=hand) as upstreams,
        Tasks() as tasks,
    ):
        crowd = [tasks.start(upstreams.get_manifest(source(), "1"), name="client") for _ in range(20)]
        await reached.wait()
        gate.set()
        assert {(await one).body for one in crowd} == {MANIFEST}
        assert realm.targets() == ["/token?service=svc&scope=repository%3Alibrary%2Fnginx%3Apull"]
        before = len(registry.asked)
        await upstreams.get_manifest(source("library/redis"), "1")
        assert len(registry.asked) == before + 1
        hand.now += 79
        await upstreams.get_manifest(source(), "1")
        assert len(realm.asked) == 2
        hand.now += 2
        await upstreams.get_manifest(source(), "1")
        assert len(realm.asked) == 3


async def test_basic_goes_to_the_realm_and_the_token_to_the_registry(password: Path) -> None:
    """The password is seen by the realm alone, never by the registry, and another set has another token."""
    async with (
        Peer(lambda asked: token("hub" if asked.authorization else "anonymous")) as realm,
        Registry(realm, "hub", "anonymous") as registry,
    ):
        async with clients(config(registry.url(), credentials={"hub": password})) as upstreams:
            await upstreams.get_manifest(source(credentials="hub"), "1")
            await upstreams.get_manifest(source(), "1")
        assert [asked.authorization for asked in realm.asked] == [BASIC, None]
        assert [asked.authorization for asked in registry.asked] == [None, "Bearer hub", None, "Bearer anonymous"]


@pytest.mark.parametrize(
    ("status", "lines"),
    [
        pytest.param(401, ['Bearer realm="{realm}",service="svc",error="invalid_token"'], id="401"),
        pytest.param(401, ['Basic realm="harbor"'], id="Harbor answers Basic to a stale token"),
        pytest.param(401, [], id="GCR answers without a challenge"),
        pytest.param(403, [], id="ECR"),
        pytest.param(400, [], id="public ECR"),
    ],
)
async def test_a_stale_token_is_replaced_once(status: int, lines: list[str]) -> None:
    """A cached token that is refused is dropped, a new one fetched, the request sent once more (U06)."""
    issued = iter(["old", "new"])
    async with Peer(lambda _asked: token(next(issued))) as realm, Registry(realm, "old") as registry:
        async with clients(config(registry.url())) as upstreams:
            await upstreams.get_manifest(source(), "1")
            registry.good = {"Bearer new"}
            filled = [("WWW-Authenticate", line.format(realm=registry.realm)) for line in lines]
            registry.refusal = Reply(status, filled, b"{}")
            assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST
        assert len(realm.asked) == 2


async def test_a_challenge_missing_on_the_request_is_found_on_v2() -> None:
    """GCR challenges on /v2/ only (U04)."""

    def serve(asked: Asked) -> Reply:
        if asked.authorization == "Bearer t":
            return Reply(body=MANIFEST)
        return challenge(f"{realm.url()}/t") if asked.target == "/v2/" else Reply(401)

    async with (
        Peer(lambda _asked: token("t")) as realm,
        Peer(serve) as registry,
        clients(config(registry.url())) as upstreams,
    ):
        assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST
