"""Another configuration for the upstream room: what did not change goes on, what runs ends as it began."""

import asyncio
import os
from pathlib import Path

import pytest

from proxy.config import Config, UpstreamConfig
from proxy.errors import ConfigInvalid, UpstreamUnavailable
from proxy.upstream.client import Clients
from proxy.upstream.endpoints import IDLE_LOOKS
from proxy.upstream.session import DECIDING
from tests.support.site import settled
from tests.support.tls import Authority
from tests.unit.test_token import BASIC, MANIFEST, Registry, token
from tests.unit.upstream_peers import (
    NAME,
    PRIVATE,
    Asked,
    Peer,
    Reply,
    Resolver,
    clients,
    config,
    digest_of,
    receive,
    source,
)

BODY = bytes(range(256)) * 64


class Pauses:
    """The pauses of a room: each is reached, and ends when the test says so."""

    def __init__(self) -> None:
        self.begun: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def __call__(self, _seconds: float) -> None:
        ends = asyncio.Event()
        self.begun.put_nowait(ends)
        await ends.wait()

    async def over(self) -> None:
        """Let the pause that runs, or the next one, end."""
        (await self.begun.get()).set()


def take(upstreams: Clients, settings: Config) -> None:
    upstreams.take(upstreams.plan(settings))


def without_upstreams() -> Config:
    return Config.model_validate({"upstreams": {"other.test": {"endpoints": [{"url": "https://other.test"}]}}})


async def test_an_endpoint_whose_settings_are_the_same_stays() -> None:
    """Its breaker, tokens and connections with it; one whose timeouts changed is another."""
    async with Peer(lambda _asked: Reply(body=MANIFEST)) as peer, clients(config(peer.url())) as upstreams:
        [endpoint] = upstreams.endpoints(NAME)
        await upstreams.get_manifest(source(), "1")
        take(upstreams, config(peer.url(), "http://127.0.0.1:9", aliases=["alias.test"]))
        assert upstreams.endpoints(NAME)[0] is endpoint
        await upstreams.get_manifest(source(), "1")
        assert peer.connections == 1
        take(upstreams, config(peer.url(), timeouts={"stall": "7s"}))
        [changed] = upstreams.endpoints(NAME)
        assert changed is not endpoint
        assert changed.wire.settings.timeouts.stall_s == 7.0


def test_every_key_of_an_upstream_is_decided_about() -> None:
    """A new key either makes another endpoint, or is known to be none of an endpoint's business."""
    elsewhere = {"endpoints", "aliases", "official_prefix", "credentials", "tls"}
    allowed_at_load = {"plain_http", "allow_insecure_credentials"}
    assert set(UpstreamConfig.model_fields) == {*DECIDING, *elsewhere, *allowed_at_load}


async def test_what_runs_at_a_removed_upstream_ends_as_it_began() -> None:
    """A body goes on, a cut one comes back by Range; new work is refused once nobody uses it any more."""
    gate, pauses = asyncio.Event(), Pauses()

    def serve(asked: Asked) -> Reply:
        if "Range" in asked.headers:
            return Reply(206, [("Content-Range", f"bytes 100-{len(BODY) - 1}/{len(BODY)}")], BODY[100:])
        return Reply(body=BODY, gate=gate, gate_after=100)

    async with Peer(serve) as peer, clients(config(peer.url()), sleep=pauses) as upstreams:
        async with upstreams.get_blob(source(), digest_of(BODY)) as body:
            chunks = aiter(body.chunks)
            got = bytes(await anext(chunks))
            take(upstreams, without_upstreams())
            assert upstreams.endpoints(NAME) == []
            await pauses.over()  # in use: it is not closed
            gate.set()
            got += b"".join([chunk async for chunk in chunks])
        assert got == BODY
        assert await receive(upstreams, digest_of(BODY), offset=100) == BODY[100:]
        for _ in range(IDLE_LOOKS):
            await pauses.over()
        await settled()
        with pytest.raises(UpstreamUnavailable, match="no such upstream"):
            await receive(upstreams, digest_of(BODY))


async def test_an_upstream_that_comes_back_is_asked_anew() -> None:
    """Removed and added again while its old connections still linger: the new settings count."""
    async with Peer(lambda _asked: Reply(body=MANIFEST)) as old, Peer(lambda _asked: Reply(body=MANIFEST)) as new:
        async with clients(config(old.url())) as upstreams:
            for settings in (without_upstreams(), config(new.url())):
                take(upstreams, settings)
            await upstreams.get_manifest(source(), "1")
        assert (len(old.asked), len(new.asked)) == (0, 1)


async def test_a_bad_authority_changes_nothing(tmp_path: Path) -> None:
    """The plan is refused before anything is taken, naming the file."""
    async with Peer(lambda _asked: Reply(body=MANIFEST)) as peer, clients(config(peer.url())) as upstreams:
        before = upstreams.endpoints(NAME)
        with pytest.raises(ConfigInvalid, match=r"missing\.pem"):
            upstreams.plan(config(peer.url(), tls={"ca": str(tmp_path / "missing.pem")}))
        assert upstreams.endpoints(NAME) == before


async def test_another_authority_counts_from_the_next_connection(tmp_path: Path) -> None:
    """The same file with other content: the endpoint is another, and trusts what the file says now."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, second = Authority(tmp_path / "one"), Authority(tmp_path / "two")
    file = tmp_path / "ca.pem"
    copy(first, file)
    async with Peer(lambda _asked: Reply(body=MANIFEST), tls=second.server("localhost")) as peer:
        settings = config(peer.url("localhost"), tls={"ca": str(file)})
        async with clients(settings, resolver=Resolver(localhost=PRIVATE)) as upstreams:
            with pytest.raises(UpstreamUnavailable):
                await upstreams.get_manifest(source(), "1")
            before = upstreams.endpoints(NAME)
            take(upstreams, settings)
            assert upstreams.endpoints(NAME) == before  # the same content: nothing is opened anew
            copy(second, file)
            take(upstreams, settings)
            assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST


def copy(authority: Authority, file: Path) -> None:
    file.write_bytes(authority.path.read_bytes())


async def test_a_bad_proxy_changes_nothing() -> None:
    """A variable that names no proxy is found when endpoints are made: nothing of the plan is taken then."""
    environ = {"HTTPS_PROXY": "ftp://nowhere"}
    async with (
        Peer(lambda _asked: Reply(body=MANIFEST)) as peer,
        clients(config(peer.url()), environ=environ) as upstreams,
    ):
        plan = upstreams.plan(config(peer.url(), proxy="env"))
        with pytest.raises(ConfigInvalid, match="proxy"):
            upstreams.take(plan)
        await upstreams.get_manifest(source(), "1")


# Credentials


def rewrite(file: Path, text: str | None) -> None:
    """What rotates a secret does; None takes the file away."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("secret-word\n")
    return file


async def test_a_rotated_password_drops_the_token_that_the_old_one_bought(password: Path) -> None:
    """The next request logs in with the new one, although the old token would have been good for long."""
    async with (
        Peer(lambda asked: token("old" if asked.authorization == BASIC else "new")) as realm,
        Registry(realm, "old", "new") as registry,
        clients(settings := config(registry.url(), credentials={"me": password})) as upstreams,
    ):
        await upstreams.get_manifest(source(credentials="me"), "1")
        rewrite(password, "other-word")
        take(upstreams, settings)
        await upstreams.get_manifest(source(credentials="me"), "1")
        assert registry.asked[-1].authorization == "Bearer new"
        take(upstreams, settings)  # unchanged: the token stays
        await upstreams.get_manifest(source(credentials="me"), "1")
        assert len(realm.asked) == 2


async def test_a_token_on_its_way_when_the_password_changes_is_not_kept(password: Path) -> None:
    """Whoever waits for it gets an answer; the next request fetches another with the new password."""
    gate, reached = asyncio.Event(), asyncio.Event()

    async def issue(asked: Asked) -> Reply:
        reached.set()
        await gate.wait()
        return token("old" if asked.authorization == BASIC else "new")

    async with Peer(issue) as realm, Registry(realm, "old", "new") as registry:
        settings = config(registry.url(), credentials={"me": password})
        async with clients(settings) as upstreams:
            waiting = asyncio.create_task(upstreams.get_manifest(source(credentials="me"), "1"))
            await reached.wait()
            rewrite(password, "other-word")
            take(upstreams, settings)
            gate.set()
            assert (await waiting).body == MANIFEST
            await upstreams.get_manifest(source(credentials="me"), "1")
            assert registry.asked[-1].authorization == "Bearer new"


@pytest.mark.parametrize("half", ["", "\n", None], ids=["empty", "a line break", "gone"])
async def test_a_half_written_secret_file_keeps_the_old_password(password: Path, half: str | None) -> None:
    """Until the new one can be read and is not empty; for a set that now names another file it counts nothing."""
    async with (
        Peer(lambda asked: token("old" if asked.authorization == BASIC else "new", 0)) as realm,
        Registry(realm, "old", "new") as registry,
        clients(settings := config(registry.url(), credentials={"me": password})) as upstreams,
    ):
        rewrite(password, half)
        take(upstreams, settings)
        await upstreams.get_manifest(source(credentials="me"), "1")
        assert realm.asked[-1].authorization == BASIC
        rewrite(password, "other-word")
        await upstreams.get_manifest(source(credentials="me"), "1")
        assert realm.asked[-1].authorization != BASIC
        take(upstreams, config(registry.url(), credentials={"me": password.with_name("other")}))
        with pytest.raises(UpstreamUnavailable, match="cannot be read"):
            await upstreams.get_manifest(source(credentials="me"), "1")


async def test_a_secret_on_a_mount_that_hangs_holds_up_nobody(password: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old password serves meanwhile, and only the first request waits; what the file says then is taken up."""
    monkeypatch.setattr("proxy.upstream.credentials.READ_WITHIN_S", 0.05)
    async with (
        Peer(lambda asked: token("old" if asked.authorization == BASIC else "new", 0)) as realm,
        Registry(realm, "old", "new") as registry,
        clients(config(registry.url(), credentials={"me": password})) as upstreams,
    ):
        rewrite(password, None)
        os.mkfifo(password)  # opening it hangs until somebody writes
        await upstreams.get_manifest(source(credentials="me"), "1")
        monkeypatch.setattr("proxy.upstream.credentials.READ_WITHIN_S", 1e6)
        await upstreams.get_manifest(source(credentials="me"), "1")
        assert [asked.authorization for asked in realm.asked] == [BASIC, BASIC]
        with password.open("w") as hanging:
            hanging.write("too late")
            rewrite(password, None)
            rewrite(password, "other-word")
        while realm.asked[-1].authorization == BASIC:
            await upstreams.get_manifest(source(credentials="me"), "1")


async def test_a_removed_credential_set_is_used_no_more(password: Path) -> None:
    """Not even by work that began with it: removing it may have been the point."""
    async with (
        Peer(lambda _asked: token("old", 0)) as realm,
        Registry(realm, "old") as registry,
        clients(config(registry.url(), credentials={"me": password})) as upstreams,
    ):
        await upstreams.get_manifest(source(credentials="me"), "1")
        take(upstreams, config(registry.url()))
        with pytest.raises(UpstreamUnavailable, match="no credentials me"):
            await upstreams.get_manifest(source(credentials="me"), "1")
