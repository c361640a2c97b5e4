"""A credential that is refused, lost or unreachable: what is held is served on, for how long, and what is told."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxy.events import CredentialJudged, TagStale
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, proxied
from tests.support.realm import Basic, Bearer, Realm, TokenShape
from tests.support.registry import Registry
from tests.support.script import error
from tests.support.site import Site

APP = "team/app"
TAG = f"{APP}/manifests/1"
DAY_S = 86_400


def keep_secret(path: Path, secret: str) -> None:
    path.write_text(secret)


@dataclass
class Vault:
    """A private image behind a realm, and the file with the password to it."""

    registry: Registry
    realm: Realm
    image: Image
    password: Path

    @asynccontextmanager
    async def proxied(
        self, cache: Path, clock: Clock, extra: str = "", upstream: Site | None = None
    ) -> AsyncIterator[Proxy]:
        """A proxy with the password, that holds the image whole when it has held it before."""
        credentials = {"own": {"username": "me", "password": {"file": str(self.password)}}}
        sections = f"credentials: {json.dumps(credentials)}\nhydrate: {{image: none}}\n{extra}"
        async with proxied(
            cache, upstream or self.registry, clock, sections, credentials="own", allow_insecure_credentials=True
        ) as proxy:
            yield proxy

    async def pulled(self, proxy: Proxy) -> None:
        """Pull the image whole."""
        assert (await proxy.ask(TAG)).status == 200
        for part in self.image.blobs:
            assert (await proxy.pull(part)).body == part.data
        await proxy.quiet()

    def refuse(self) -> None:
        """The password is changed upstream; what tokens it bought are void."""
        self.realm.users["me"] = "another"
        self.realm.grants.clear()

    async def lost(self, proxy: Proxy, clock: Clock) -> None:
        """The image is held whole, and the password has been refused once, an hour later: the grace runs."""
        await self.pulled(proxy)
        self.refuse()
        clock.advance(3600)
        await proxy.ask(TAG)

    async def statuses(self, proxy: Proxy) -> list[int]:
        """How the tag, its digest and its layers are answered."""
        paths = [
            TAG,
            f"{APP}/manifests/{self.image.digest}",
            *(f"{APP}/blobs/{part.digest}" for part in self.image.blobs),
        ]
        return [(await proxy.ask(path)).status for path in paths]


@pytest.fixture
async def vault(registry: Registry, short_tmp: Path, clock: Clock) -> AsyncIterator[Vault]:
    async with Realm(shape=TokenShape(), clock=clock) as realm:
        realm.users["me"] = "secret"
        realm.private.add(APP)
        registry.authority = Bearer(realm)
        password = short_tmp / "password"
        keep_secret(password, "secret")
        yield Vault(registry, realm, registry.add(APP, "1", manifest(blob(2000), blob(100_000))), password)


async def test_a_refused_credential_keeps_held_content_for_its_grace(
    vault: Vault, cache_dir: Path, clock: Clock
) -> None:
    """Tags are marked stale, digests flow, and the log says so; after the grace all of it is denied, naming the set."""
    async with vault.proxied(cache_dir, clock) as proxy:
        proxy.hear(CredentialJudged, TagStale)
        await vault.pulled(proxy)
        vault.refuse()
        clock.advance(3600)
        answer = await proxy.ask(TAG)
        assert (answer.status, answer.body) == (200, vault.image.manifest.data)
        assert "refuses the credentials own" in answer.headers["Warning"]
        assert set(await vault.statuses(proxy)) == {200}
        clock.advance(DAY_S - 10)
        assert set(await vault.statuses(proxy)) == {200}
        clock.advance(20)
        assert set(await vault.statuses(proxy)) == {403}
        denied = await proxy.ask(TAG)
        assert (denied.code, b"own" in denied.body) == ("DENIED", True)
        judged = [event for event in proxy.heard if isinstance(event, CredentialJudged)]
        assert judged == [CredentialJudged(UPSTREAM, "own", True), CredentialJudged(UPSTREAM, "own", False)]


async def test_a_mended_credential_serves_at_once(vault: Vault, cache_dir: Path, clock: Clock) -> None:
    """A new password in the file ends the denial with the next request, of a tag or of a digest, and the grace too."""
    async with vault.proxied(cache_dir, clock) as proxy:
        await vault.lost(proxy, clock)
        clock.advance(DAY_S)
        assert set(await vault.statuses(proxy)) == {403}
        keep_secret(vault.password, "another")
        assert (await proxy.pull(vault.image.blobs[0])).status == 200
        assert set(await vault.statuses(proxy)) == {200}
        assert "Warning" not in (await proxy.ask(TAG)).headers


async def test_a_restart_begins_no_new_grace(vault: Vault, cache_dir: Path, clock: Clock) -> None:
    """Since when a credential is refused is durable: a server restarted each day denies it all the same."""
    async with vault.proxied(cache_dir, clock) as proxy:
        await vault.lost(proxy, clock)
        await proxy.rooms.grace.kept()
    clock.advance(DAY_S / 2)
    async with vault.proxied(cache_dir, clock) as proxy:
        assert set(await vault.statuses(proxy)) == {200}
    clock.advance(DAY_S / 2)
    async with vault.proxied(cache_dir, clock) as proxy:
        assert set(await vault.statuses(proxy)) == {403}
        keep_secret(vault.password, "another")
        assert set(await vault.statuses(proxy)) == {200}
        await proxy.rooms.grace.kept()
    async with vault.proxied(cache_dir, clock) as proxy:
        assert await proxy.rooms.disk.records.refusals() == {}


@pytest.mark.parametrize("jump_s", [-3600.0, -1_800_000_000.0], ids=["an hour back", "to 1970"])
async def test_a_clock_that_goes_back_makes_no_grace_eternal(
    vault: Vault, cache_dir: Path, clock: Clock, jump_s: float
) -> None:
    """The grace is counted on in monotonic time, and a stamp from the future begins it once more, not for ever."""
    async with vault.proxied(cache_dir, clock) as proxy:
        await vault.lost(proxy, clock)
        clock.advance(jump_s)
        assert set(await vault.statuses(proxy)) == {200}
        await proxy.rooms.grace.kept()
    async with vault.proxied(cache_dir, clock) as proxy:
        assert set(await vault.statuses(proxy)) == {200}
        clock.advance(DAY_S + 1)
        assert set(await vault.statuses(proxy)) == {403}


@pytest.mark.parametrize(
    ("extra", "status"),
    [("credential_grace: 0s", 403), ("credential_grace: forever", 200), ("tags: {on_denied: serve_stale}", 200)],
)
async def test_the_grace_is_what_the_file_says(
    vault: Vault, cache_dir: Path, clock: Clock, extra: str, status: int
) -> None:
    """None, for ever, or beside the point where denials are served stale anyway."""
    async with vault.proxied(cache_dir, clock, extra) as proxy:
        await vault.lost(proxy, clock)
        clock.advance(30 * DAY_S)
        assert set(await vault.statuses(proxy)) == {status}


async def test_what_is_not_held_is_denied_within_the_grace(vault: Vault, cache_dir: Path, clock: Clock) -> None:
    """The grace serves what is here; it fetches nothing."""
    async with vault.proxied(cache_dir, clock) as proxy:
        await vault.pulled(proxy)
        vault.refuse()
        clock.advance(3600)
        assert (await proxy.ask(f"{APP}/manifests/2")).status == 403


async def test_an_upstream_that_is_away_past_the_grace_denies_nothing(
    vault: Vault, cache_dir: Path, clock: Clock
) -> None:
    """Whether the credential is good again cannot be asked: that is an outage, and held digests flow."""
    async with vault.proxied(cache_dir, clock) as proxy:
        await vault.lost(proxy, clock)
        clock.advance(DAY_S)
        await vault.realm.stop()
        await vault.registry.stop()
        assert (await proxy.ask(f"{APP}/manifests/{vault.image.digest}")).status == 200


async def test_a_realm_that_denies_past_the_grace_is_not_away(vault: Vault, cache_dir: Path, clock: Clock) -> None:
    """Also a 403 that does not blame the password is a definite word: what is held is denied, as a tag is."""
    async with vault.proxied(cache_dir, clock) as proxy:
        await vault.lost(proxy, clock)
        clock.advance(DAY_S)
        vault.realm.script(vault.realm.shape.path, error(403, "DENIED"))
        assert set(await vault.statuses(proxy)) == {403}


@pytest.mark.parametrize("kind", ["manifests", "blobs"])
@pytest.mark.parametrize(("policy", "status"), [("deny", 404), ("serve_stale", 200)])
async def test_an_upstream_that_hides_what_it_denies_is_not_away(
    vault: Vault, cache_dir: Path, clock: Clock, policy: str, status: int, kind: str
) -> None:
    """A 404 past the grace is a word, too: it follows `on_not_found`."""
    async with vault.proxied(cache_dir, clock, f"tags: {{on_not_found: {policy}}}") as proxy:
        await vault.lost(proxy, clock)
        clock.advance(DAY_S)
        vault.realm.users["me"] = "secret"
        digest = vault.image.digest if kind == "manifests" else vault.image.blobs[0].digest
        vault.registry.script(digest, error(404, "NAME_UNKNOWN"), methods=("GET", "HEAD"))
        assert (await proxy.ask(f"{APP}/{kind}/{digest}")).status == status


async def test_a_locked_out_user_is_left_alone(vault: Vault, cache_dir: Path, clock: Clock) -> None:
    """A refused password costs the realm one request in ten minutes, whatever clients ask for (U10)."""
    async with vault.proxied(cache_dir, clock) as proxy:
        await vault.pulled(proxy)
        vault.refuse()
        clock.advance(3600)
        vault.realm.forget()
        for number in range(50):
            await proxy.ask(TAG)
            await proxy.ask(f"team/other/manifests/{number}")
            clock.advance(1)
        assert len(vault.realm.requests) == 1
        clock.advance(600)
        await proxy.ask(TAG)
        assert len(vault.realm.requests) == 2


async def test_a_realm_that_is_away_is_an_outage(vault: Vault, cache_dir: Path, clock: Clock) -> None:
    """Held tags are served stale, what is not held is 503; the registry's circuit stays closed, the realm is spared."""
    async with vault.proxied(cache_dir, clock) as proxy:
        await vault.pulled(proxy)
        vault.realm.grants.clear()
        vault.realm.script(vault.realm.shape.path, error(503))
        clock.advance(3600)
        vault.realm.forget()
        answer = await proxy.ask(TAG)
        assert (answer.status, "token realm" in answer.headers["Warning"]) == (200, True)
        for number in range(50):
            cold = await proxy.ask(f"team/other{number}/manifests/1")
            assert (cold.status, int(cold.headers["Retry-After"]) >= 1) == (503, True)
        assert len(vault.realm.requests) == 1
        assert proxy.rooms.upstreams.states(UPSTREAM)[0].circuit == "closed"
        vault.realm.heal()
        clock.advance(70)
        assert "Warning" not in (await proxy.ask(TAG)).headers


async def test_basic_authentication_has_its_grace_too(
    registry: Registry, cache_dir: Path, clock: Clock, short_tmp: Path
) -> None:
    """A registry that takes the password itself (htpasswd) refuses it with a 401: the same grace, the same end."""
    users = {"me": "secret"}
    registry.authority = Basic(users)
    password = short_tmp / "password"
    keep_secret(password, "secret")
    async with Realm() as unused:
        vault = Vault(registry, unused, registry.add(APP, "1", manifest(blob(2000))), password)
        async with vault.proxied(cache_dir, clock) as proxy:
            await vault.pulled(proxy)
            users["me"] = "another"
            clock.advance(3600)
            assert "Warning" in (await proxy.ask(TAG)).headers
            clock.advance(DAY_S)
            assert set(await vault.statuses(proxy)) == {403}
            keep_secret(password, "another")
            assert set(await vault.statuses(proxy)) == {200}
