"""Another password for an upstream: its tokens, gates and denials go with it; a mount that hangs holds up nobody."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from proxy.errors import UpstreamDenied, UpstreamThrottled, UpstreamUnavailable
from tests.support.taking import take
from tests.unit.upstream_peers import (
    Asked,
    Peer,
    Reply,
    clients,
    config,
    source,
)
from tests.unit.upstream_tokens import BASIC, MANIFEST, Registry, rewrite, token


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


async def test_another_password_opens_the_gates_of_the_old_one(password: Path) -> None:
    """A limit is a user's, or a plan's; whose it is now is not known, and asked."""
    replies = [Reply(429, headers=[("Retry-After", "60")])]

    def serve(_asked: Asked) -> Reply:
        return replies.pop() if replies else Reply(body=MANIFEST)

    async with Peer(serve) as peer:
        settings = config(peer.url(), credentials={"me": password})
        async with clients(settings) as upstreams:
            mine = source(credentials="me")
            with pytest.raises(UpstreamThrottled):
                await upstreams.get_manifest(mine, "1")
            take(upstreams, settings)
            with pytest.raises(UpstreamThrottled):
                await upstreams.get_manifest(mine, "2")
            rewrite(password, "other-word")
            take(upstreams, settings)
            assert (await upstreams.get_manifest(mine, "3")).body == MANIFEST


async def test_a_denial_is_not_remembered_for_the_next_password(password: Path) -> None:
    """Written within the second in which a denial costs a retry, and no reload needed: the next request is asked."""

    def serve(asked: Asked) -> Reply:
        if asked.authorization == "Bearer new":
            return Reply(body=MANIFEST)
        if asked.authorization == "Bearer old":
            return Reply(403)
        return Reply(401, headers=[("WWW-Authenticate", f'Bearer realm="{realm.url()}/token",service="s"')])

    async with (
        Peer(lambda asked: token("old" if asked.authorization == BASIC else "new")) as realm,
        Peer(serve) as registry,
        clients(config(registry.url(), credentials={"me": password}), monotonic=lambda: 1000.0) as upstreams,
    ):
        mine, asked = source(credentials="me"), []
        for _ in range(6):
            with pytest.raises(UpstreamDenied):
                await upstreams.get_manifest(mine, "1")
            asked.append(len(registry.asked))
        assert asked[-1] == asked[-2]  # remembered: its retries are used up
        rewrite(password, "other-word")
        assert (await upstreams.get_manifest(mine, "1")).body == MANIFEST


async def test_a_start_waits_for_no_secret_on_a_mount_that_hangs(
    password: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is held is served without it; what was written there meanwhile counts when it is used."""
    monkeypatch.setattr("proxy.upstream.credentials.READ_WITHIN_S", 0.05)
    rewrite(password, None)
    os.mkfifo(password)
    async with (
        Peer(lambda _asked: token("new", 0)) as realm,
        Registry(realm, "new") as registry,
        clients(config(registry.url(), credentials={"me": password})) as upstreams,
    ):
        with pytest.raises(UpstreamUnavailable, match="cannot be read"):
            await upstreams.get_manifest(source(credentials="me"), "1")
        with password.open("w") as hanging:
            hanging.write("too late")
            rewrite(password, None)
            rewrite(password, "secret-word")
        body = None
        while body is None:
            with contextlib.suppress(UpstreamUnavailable):
                body = (await upstreams.get_manifest(source(credentials="me"), "1")).body
        assert body == MANIFEST
