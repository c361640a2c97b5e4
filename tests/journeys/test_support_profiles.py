"""Each profile shows a client its own challenge, token, redirect, HEAD, 404 and 429 shapes (protocol 7)."""

import json
import re
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDictProxy
from yarl import URL

from proxy import oci
from tests.support import images
from tests.support.clock import Clock
from tests.support.images import Image
from tests.support.profiles import PROFILES
from tests.support.public import PublicRegistry, public_registry
from tests.support.tls import Authority, Names

FIELD = re.compile(r'(\w+)="([^"]*)"')


class PlacedNames(AbstractResolver):
    """aiohttp's resolver port over the test's names."""

    def __init__(self, names: Names) -> None:
        self.names = names

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=found, port=port, family=family, proto=0, flags=0)
            for found in await self.names.resolve(host)
        ]

    async def close(self) -> None:
        return None


@dataclass
class Seen:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes
    url: URL


@dataclass
class World:
    """A profile at work, an image on it, and a plain HTTP client that follows nothing by itself."""

    public: PublicRegistry
    http: aiohttp.ClientSession
    image: Image

    async def ask(self, method: str, url: str, token: str | None = None, **headers: str) -> Seen:
        sent = {"Accept": oci.ACCEPT, **headers} | ({"Authorization": token} if token else {})
        where = URL(url, encoded=True)
        async with self.http.request(method, where, headers=sent, allow_redirects=False) as answer:
            return Seen(answer.status, answer.headers, await answer.read(), where)

    async def authorized(self, method: str, path: str, **headers: str) -> Seen:
        """Ask, answer the challenge that comes (from whichever host), and follow redirects between registries."""
        url = self.public.url + path
        seen = await self.ask(method, url, **headers)
        while seen.status in (302, 307) and "/v2/" in seen.headers["Location"] and "?" not in seen.headers["Location"]:
            url = seen.headers["Location"]
            seen = await self.ask(method, url, **headers)
        if seen.status != 401:
            return seen
        challenge = (
            seen.headers.get("WWW-Authenticate")
            or (await self.ask("GET", self.public.url + "/v2/")).headers["WWW-Authenticate"]
        )
        return await self.ask(method, url, await self.answer(challenge), **headers)

    async def answer(self, challenge: str) -> str:
        fields = dict(FIELD.findall(challenge))
        if challenge.startswith("Basic"):
            return aiohttp.encode_basic_auth(*self.public.password)
        query = {"service": fields.get("service", ""), "scope": "repository:library/app:pull"}
        async with self.http.get(fields["realm"], params=query) as answer:
            document = json.loads(await answer.read())
        return f"Bearer {document.get('token') or document['access_token']}"


@pytest.fixture(params=PROFILES)
async def world(request: pytest.FixtureRequest, ca: Authority, names: Names, clock: Clock) -> AsyncIterator[World]:
    """Each profile in turn, holding one image."""
    async with public_registry(request.param, ca, names, clock=clock) as public:
        connector = aiohttp.TCPConnector(ssl=ca.client(), resolver=PlacedNames(names), ttl_dns_cache=None)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
            yield World(public, http, public.add("library/app", "v1", images.manifest()))


async def test_the_ping_shows_the_challenge(world: World) -> None:
    """Bearer with the realm's own path, Basic, or open; without a service where the profile says so."""
    profile = world.public.profile
    seen = await world.ask("GET", world.public.url + "/v2/")
    if profile.name == "k8s":
        assert (seen.status, URL(seen.headers["Location"]).host) == (307, profile.realm)
    elif profile.auth == "none":
        assert seen.status == 200
    else:
        challenge = seen.headers["WWW-Authenticate"]
        fields = dict(FIELD.findall(challenge))
        assert (seen.status, challenge.split()[0].lower()) == (401, profile.auth)
        assert fields.get("service") == (profile.service if profile.service_in_ping else None)
        assert fields.get("scope") == profile.ping_scope
        if profile.auth == "bearer":
            assert (URL(fields["realm"]).host, URL(fields["realm"]).path) == (profile.realm, profile.shape.path)


async def test_a_token_opens_the_manifest(world: World) -> None:
    """GET by tag answers the exact bytes; Docker-Content-Digest is missing exactly where it is in the world."""
    seen = await world.authorized("GET", "/v2/library/app/manifests/v1")
    assert (seen.status, seen.body) == (200, world.image.manifest.data)
    told = None if world.public.profile.no_digest else str(world.image.digest)
    assert seen.headers.get("Docker-Content-Digest") == told
    assert {name: seen.headers[name] for name, _ in world.public.profile.headers} == dict(world.public.profile.headers)


async def test_head_works_where_it_does_in_the_world(world: World) -> None:
    """HEAD of a manifest: 200, or the refusal of the profile."""
    seen = await world.authorized("HEAD", "/v2/library/app/manifests/v1")
    assert seen.status == (world.public.profile.manifest_head or 200)


async def test_a_blob_comes_from_the_data_host_by_its_exact_url(world: World) -> None:
    """One redirect; the URL serves byte for byte, and nothing else does: not re-quoted, not with a token, not late."""
    blob = world.image.layers[0]
    seen = await world.authorized("GET", f"/v2/library/app/blobs/{blob.digest}")
    data = world.public.data
    if data is None:
        assert (seen.status, seen.body) == (200, blob.data)
        return
    location = seen.headers["Location"]
    assert seen.status == world.public.profile.redirect_status
    assert (await world.ask("GET", location)).body == blob.data
    part = await world.ask("GET", location, Range="bytes=5-9")
    assert (part.status, part.body) == (206, blob.data[5:10])
    assert (await world.ask("HEAD", location)).status == (world.public.profile.data_head or 200)
    assert (await world.ask("GET", location, "Bearer x")).status == 400
    assert (await world.ask("GET", str(URL(location)))).status == 403
    several = await world.ask("GET", location, Range="bytes=0-1,3-4")
    assert several.status == world.public.profile.multi_range
    data.expire_all()
    assert (await world.ask("GET", location)).status == 403
    assert len(data.fetches_of(blob)) == 2


async def test_what_is_missing_is_missing_in_its_own_words(world: World) -> None:
    """An unknown tag answers the profile's 404."""
    seen = await world.authorized("GET", "/v2/library/app/manifests/none")
    assert seen.status == 404
    missing = world.public.profile.missing
    assert missing is None or seen.body == missing.body


async def test_throttled_it_answers_429_in_its_own_words(world: World) -> None:
    """Each of the profile's 429s, with its Retry-After if it has one; healed, it serves again."""
    for kind, wanted in enumerate(world.public.profile.throttles):
        world.public.throttle(kind)
        seen = await world.authorized("GET", f"/v2/library/app/blobs/{world.image.layers[0].digest}")
        assert (seen.status, seen.body) == (429, wanted.body)
        assert seen.headers.get("Retry-After") == wanted.headers.get("Retry-After")
        world.public.registry.heal()
    assert (await world.authorized("GET", "/v2/library/app/manifests/v1")).status == 200


async def test_a_token_ends_when_its_time_is_over(world: World, clock: Clock) -> None:
    """The realm counts its tokens; one that expired is challenged again, as the profile does it."""
    realm = world.public.realm
    if realm is None:
        assert world.public.profile.auth in ("basic", "none")
        return
    host = world.public.regional or world.public.registry
    url = host.url + "/v2/library/app/manifests/v1"
    token = await world.answer(f'Bearer realm="{realm.realm}"')
    assert (await world.ask("GET", url, token)).status == 200
    clock.advance((world.public.profile.shape.expires_in or 60) + 1)
    late = await world.ask("GET", url, token)
    assert (late.status, realm.issued) == (401, 1)
    stale = world.public.profile.stale
    assert stale is None or late.headers["WWW-Authenticate"] == stale
