"""Tokens: the realm's answers, their lifetimes, and how the client uses them."""

import asyncio
import json
from pathlib import Path

import pytest
from yarl import URL

from proxy.errors import (
    CredentialRefused,
    CredentialUnavailable,
    DialRefused,
    UpstreamDenied,
    UpstreamThrottled,
)
from proxy.tasks import Tasks
from proxy.upstream.token import TokenKey, parse
from tests.unit.upstream_peers import Asked, Hand, Peer, Reply, Resolver, clients, config, source

BASIC = "Basic bWU6c2VjcmV0LXdvcmQ="  # me:secret-word
MANIFEST = b'{"schemaVersion":2}'


def token(value: str, expires_in: object = 300, name: str = "token") -> Reply:
    return Reply(body=json.dumps({name: value, "expires_in": expires_in}).encode())


def challenge(realm: str, *more: str) -> Reply:
    lines = [f'Bearer realm="{realm}",service="svc",scope="repository:user/image:pull"', *more]
    return Reply(401, [("WWW-Authenticate", line) for line in lines], b'{"errors":[{"code":"UNAUTHORIZED"}]}')


class Registry(Peer):
    """A registry that wants one of `good` tokens from `realm`; else it answers `refusal`."""

    def __init__(self, realm: Peer, *good: str) -> None:
        super().__init__(self.serve)
        self.realm = f"{realm.url()}/token"
        self.good = {f"Bearer {value}" for value in good}
        self.refusal: Reply | None = None

    def serve(self, asked: Asked) -> Reply:
        if asked.authorization in self.good:
            return Reply(body=MANIFEST)
        if self.refusal is not None and asked.authorization is not None:
            return self.refusal
        return challenge(self.realm)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("secret-word\n")
    return file


def rewrite(file: Path, text: str) -> None:
    """What rotates a secret does."""
    file.write_text(text)


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


async def test_a_fresh_token_that_is_refused_is_a_denial(password: Path) -> None:
    """200 with no access, then insufficient_scope: one retry, then denied, naming the set (U05)."""
    async with (
        Peer(lambda _asked: token("poor")) as realm,
        Registry(realm) as registry,
        clients(config(registry.url(), credentials={"hub": password})) as upstreams,
    ):
        for credentials in (None, "hub"):
            before = len(registry.asked)
            with pytest.raises(UpstreamDenied) as denied:
                await upstreams.get_manifest(source(credentials=credentials), "1")
            assert denied.value.credentials == credentials
            assert len(registry.asked) == before + 2


async def test_a_refused_password_is_not_asked_again_for_a_while(password: Path) -> None:
    """One 401 of the realm, then silence for ten minutes (U10); a new password is tried at once."""
    hand = Hand()

    def issue(asked: Asked) -> Reply:
        return Reply(401) if asked.authorization == BASIC else token("good")

    async with Peer(issue) as realm, Registry(realm, "good") as registry:
        settings = config(registry.url(), credentials={"hub": password})
        async with clients(settings, monotonic=hand) as upstreams:
            for _ in range(3):
                with pytest.raises(CredentialRefused) as refused:
                    await upstreams.get_manifest(source(credentials="hub"), "1")
                assert refused.value.credentials == "hub"
                assert "secret-word" not in str(refused.value)
            assert len(realm.asked) == 1
            hand.now += 599
            with pytest.raises(CredentialRefused):
                await upstreams.get_manifest(source(credentials="hub"), "1")
            assert len(realm.asked) == 1
            hand.now += 2
            with pytest.raises(CredentialRefused):
                await upstreams.get_manifest(source(credentials="hub"), "1")
            assert len(realm.asked) == 2
            rewrite(password, "rotated")
            assert (await upstreams.get_manifest(source(credentials="hub"), "1")).body == MANIFEST


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(503), id="503"),
        pytest.param(Reply(404), id="404"),
        pytest.param(Reply(body=b"<html>", headers=[("Content-Type", "text/html")]), id="html"),
        pytest.param(Reply(body=b"{" * 100_000), id="endless"),
        pytest.param(Reply(302, [("Location", "/elsewhere")]), id="redirect"),
        pytest.param(Reply(raw=b""), id="closed"),
        pytest.param(Reply(body=b'{"token":"' + b"x" * 50, cut_after=5), id="cut"),
    ],
)
async def test_a_broken_realm_is_an_outage_not_a_denial(reply: Reply, password: Path) -> None:
    """Whatever hinders the token, held content may be served; and a redirect never takes the password along."""
    async with Peer(lambda _asked: reply) as realm, Registry(realm, "good") as registry:
        async with clients(config(registry.url(), credentials={"hub": password})) as upstreams:
            with pytest.raises(CredentialUnavailable):
                await upstreams.get_manifest(source(credentials="hub"), "1")
            assert upstreams.endpoints(source().upstream)[0].breaker.state == "closed"
        assert all(target.startswith("/token?") for target in realm.targets())


async def test_a_realm_may_deny_or_throttle() -> None:
    """GHCR's realm says 403 for what is private or missing (U23); 429 carries its wait."""
    replies = iter([Reply(403, body=b'{"errors":[{"code":"DENIED"}]}'), Reply(429, [("Retry-After", "9")])])
    async with (
        Peer(lambda _asked: next(replies)) as realm,
        Registry(realm, "good") as registry,
        clients(config(registry.url())) as upstreams,
    ):
        with pytest.raises(UpstreamDenied) as denied:
            await upstreams.get_manifest(source(), "1")
        assert denied.value.anonymous
        with pytest.raises(UpstreamThrottled) as throttled:
            await upstreams.get_manifest(source(), "1")
        assert throttled.value.retry_after_s == 9.0


async def test_a_secret_that_cannot_be_read_is_an_outage(tmp_path: Path) -> None:
    """A missing file names itself and asks nobody."""
    missing = tmp_path / "missing"
    async with Peer(lambda _asked: token("t")) as realm, Registry(realm, "t") as registry:
        async with clients(config(registry.url(), credentials={"hub": missing})) as upstreams:
            with pytest.raises(CredentialUnavailable, match="missing"):
                await upstreams.get_manifest(source(credentials="hub"), "1")
        assert realm.asked == []


async def test_basic_registries_get_basic(password: Path) -> None:
    """ECR: a Basic challenge is answered with the pair, at once the next time; wrong, it is refused and remembered."""

    def serve(asked: Asked) -> Reply:
        if asked.authorization == BASIC:
            return Reply(body=MANIFEST)
        return Reply(401, [("WWW-Authenticate", 'Basic realm="ecr",service="ecr.amazonaws.com"')])

    async with Peer(serve) as registry, clients(config(registry.url(), credentials={"hub": password})) as upstreams:
        await upstreams.get_manifest(source(credentials="hub"), "1")
        await upstreams.get_manifest(source(credentials="hub"), "1")
        assert [asked.authorization for asked in registry.asked] == [None, BASIC, BASIC]
        with pytest.raises(UpstreamDenied) as denied:
            await upstreams.get_manifest(source(), "1")
        assert denied.value.anonymous
        rewrite(password, "wrong")
        before = len(registry.asked)
        for _ in range(3):
            with pytest.raises(CredentialRefused):
                await upstreams.get_manifest(source(credentials="hub"), "1")
        assert len(registry.asked) == before + 1


async def test_basic_that_is_not_enough_for_one_repository_is_not_wrong(password: Path) -> None:
    """403 with the right pair denies this repository and leaves the others alone."""

    def serve(asked: Asked) -> Reply:
        if asked.authorization is None:
            return Reply(401, [("WWW-Authenticate", "Basic realm=x")])
        return Reply(403) if "secret" in asked.target else Reply(body=MANIFEST)

    async with Peer(serve) as registry, clients(config(registry.url(), credentials={"hub": password})) as upstreams:
        for _ in range(2):
            with pytest.raises(UpstreamDenied) as denied:
                await upstreams.get_manifest(source("secret", credentials="hub"), "1")
            assert not isinstance(denied.value, CredentialRefused)
            await upstreams.get_manifest(source(credentials="hub"), "1")


@pytest.mark.parametrize("step", ["first", "stale", "probe"])
@pytest.mark.parametrize(
    "realm_url",
    [
        "http://evil.test:{port}/t",
        "http://me@127.0.0.1:{port}/t",
        "http://127.0.0.2:{port}/t",
        "http://localhost:{port}/t",
    ],
)
async def test_a_foreign_realm_is_never_asked(step: str, realm_url: str, password: Path) -> None:
    """On the first challenge, on one with a stale token, and on /v2/'s: zero connections to the foreign realm."""
    async with Peer(lambda _asked: token("evil")) as evil, Peer(lambda _asked: token("good")) as realm:
        bad = challenge(realm_url.format(port=evil.port))
        states = {"is_stale": False}

        def serve(asked: Asked) -> Reply:
            if step == "probe":
                return bad if asked.target == "/v2/" else Reply(401)
            if step == "first" or states["is_stale"]:
                return bad
            return Reply(body=MANIFEST) if asked.authorization else challenge(f"{realm.url()}/t")

        async with Peer(serve) as registry, clients(config(registry.url(), credentials={"hub": password})) as upstreams:
            if step == "stale":
                await upstreams.get_manifest(source(credentials="hub"), "1")
                states["is_stale"] = True
            with pytest.raises(DialRefused):
                await upstreams.get_manifest(source(credentials="hub"), "1")
        assert evil.connections == 0


async def test_trusted_realms_are_asked_by_configuration(password: Path) -> None:
    """An odd realm works once the configuration names it."""
    async with Peer(lambda _asked: token("good")) as realm, Registry(realm, "good") as registry:
        registry.realm = f"http://localhost:{realm.port}/t"
        settings = config(registry.url(), credentials={"hub": password}, trusted_realms=["localhost"])
        async with clients(settings, resolver=Resolver(localhost=["127.0.0.1"])) as upstreams:
            assert (await upstreams.get_manifest(source(credentials="hub"), "1")).body == MANIFEST
        assert realm.asked[0].authorization == BASIC
