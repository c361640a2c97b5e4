"""Tokens and passwords that are refused, realms that are away or not to be trusted, and registries that want Basic."""

from contextlib import suppress
from pathlib import Path

import pytest

from proxy.errors import (
    CredentialRefused,
    CredentialUnavailable,
    DialRefused,
    UpstreamDenied,
    UpstreamFault,
    UpstreamThrottled,
)
from tests.unit.upstream_peers import Asked, Hand, Peer, Reply, Resolver, clients, config, source
from tests.unit.upstream_tokens import BASIC, MANIFEST, Registry, challenge, rewrite, token


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


async def test_a_pair_is_judged_by_what_it_opens(password: Path) -> None:
    """A right one that follows a wrong one ends its grace with the first answer that it opens. 403, 404 and a limit are
    no word on it: registries hide so what they deny, and ECR tells so that a password has expired.
    """
    hand, heard, says = Hand(), list[bool](), [200]

    def serve(asked: Asked) -> Reply:
        if asked.authorization != BASIC:
            return Reply(401, [("WWW-Authenticate", "Basic realm=x")])
        return Reply(says[0], body=MANIFEST if says[0] == 200 else b"")

    async def ask(status: int) -> None:
        says[0] = status
        with suppress(UpstreamFault):
            await upstreams.get_manifest(source(credentials="hub"), "1")

    async with Peer(serve) as registry:
        settings = config(registry.url(), credentials={"hub": password})
        judged = {"on_judged": lambda event: heard.append(event.accepted)}
        async with clients(settings, monotonic=hand, **judged) as upstreams:
            await ask(200)
            assert heard == [True]
            rewrite(password, "wrong")
            await ask(200)
            assert heard == [True, False]
            rewrite(password, "secret-word")
            for status in (400, 403, 404, 429, 500):
                await ask(status)
                hand.now += 4000
            assert heard == [True, False]
            await ask(200)
            assert heard == [True, False, True]


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
