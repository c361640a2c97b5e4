"""Another configuration for the upstream room: what did not change goes on, what runs ends as it began."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config import Config, UpstreamConfig
from proxy.errors import ConfigInvalid, UpstreamThrottled, UpstreamUnavailable
from proxy.upstream.endpoints import IDLE_LOOKS
from proxy.upstream.session import DECIDING, UpstreamCall
from tests.support.taking import take
from tests.support.tls import Authority
from tests.support.waiting import settled
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
from tests.unit.upstream_tokens import MANIFEST

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


def without_upstreams() -> Config:
    return Config.parse({"upstreams": {"other.test": {"endpoints": [{"url": "https://other.test"}]}}})


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
    assert set(UpstreamConfig.fields()) == {*DECIDING, *elsewhere, *allowed_at_load}


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


async def test_another_setting_is_no_new_start_for_who_throttles_us() -> None:
    """A closed gate stays closed, and what was told of the quota is known still."""
    told = [("Retry-After", "60"), ("RateLimit-Limit", "100;w=3600"), ("RateLimit-Remaining", "0;w=3600")]
    async with Peer(lambda _asked: Reply(429, headers=told)) as peer, clients(config(peer.url())) as upstreams:
        with pytest.raises(UpstreamThrottled):
            await upstreams.get_manifest(source(), "1")
        take(upstreams, config(peer.url(), max_connections=8))
        with pytest.raises(UpstreamThrottled):
            await upstreams.get_manifest(source(), "2")
        assert len(peer.asked) == 1
        [state] = upstreams.states(NAME)
        assert [quota.remaining for quota in state.quotas] == [0]
        assert [throttled.credentials for throttled in state.throttled] == [None]


async def test_an_endpoint_that_is_left_alone_is_asked_at_once_under_other_settings() -> None:
    """They may be the cure: clients are refused as before, and the first probe goes out by itself."""
    answers = [Reply(500), Reply(500)]
    probed, gate, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def hear(call: UpstreamCall) -> None:
        if call.kind == "ping":
            answered.set()

    async def serve(_asked: Asked) -> Reply:
        if answers:
            return answers.pop()
        probed.set()
        await gate.wait()
        return Reply(body=MANIFEST)

    breaker = {"failures": 2, "reset_after": "1000s"}
    async with Peer(serve) as peer, clients(config(peer.url(), breaker=breaker), on_request=hear) as upstreams:
        for tag in "12":
            with pytest.raises(UpstreamUnavailable):
                await upstreams.get_manifest(source(), tag)
        take(upstreams, config(peer.url(), breaker=breaker, timeouts={"stall": "7s"}))
        await probed.wait()
        with pytest.raises(UpstreamUnavailable, match="left alone"):
            await upstreams.get_manifest(source(), "3")
        gate.set()
        [endpoint] = upstreams.endpoints(NAME)
        await answered.wait()
        await settled()
        assert not endpoint.breaker.is_open
        assert (await upstreams.get_manifest(source(), "4")).body == MANIFEST


async def test_failures_in_a_row_go_on_being_counted_under_other_settings() -> None:
    """Two before, a request and its retry, and two after make four."""
    breaker = {"failures": 4, "reset_after": "1000s"}
    async with Peer(lambda _asked: Reply(500)) as peer, clients(config(peer.url(), breaker=breaker)) as upstreams:
        with pytest.raises(UpstreamUnavailable):
            await upstreams.get_manifest(source(), "1")
        assert not upstreams.endpoints(NAME)[0].breaker.is_open
        take(upstreams, config(peer.url(), breaker=breaker, timeouts={"stall": "7s"}))
        with pytest.raises(UpstreamUnavailable):
            await upstreams.get_manifest(source(), "2")
        assert upstreams.endpoints(NAME)[0].breaker.is_open


async def test_an_endpoint_of_a_rule_is_known_again_after_a_reload() -> None:
    """It stands in no upstream's list; who throttled us there still does."""
    async with Peer(lambda _asked: Reply(429, headers=[("Retry-After", "60")])) as peer:
        settings = config("http://127.0.0.1:9")
        pinned = replace(source(), endpoint=peer.url())
        async with clients(settings) as upstreams:
            for tag in "12":
                with pytest.raises(UpstreamThrottled):
                    await upstreams.get_manifest(pinned, tag)
                take(upstreams, settings)
            assert len(peer.asked) == 1
