"""Ten steps through Cistern at each kind of public registry, as containerd and as skopeo take them.

Every profile has its own challenge, token, redirect, HEAD, 404 and 429 shapes, under TLS names of a test CA; to the
clients they must all look the same.
"""

import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from proxy.exchange import tell_request
from proxy.journal import Journal
from proxy.log import configure
from tests.support.clients import Containerd, Mirror, skopeo_copy, skopeo_holds, write_hosts
from tests.support.clock import Clock
from tests.support.images import Image, blob, layer, manifest
from tests.support.leaks import Canaries
from tests.support.profiles import PROFILES
from tests.support.proxy import UPSTREAM, Proxy, Reply, config_text, running
from tests.support.public import PublicRegistry, public_registry
from tests.support.tls import Authority, Names

pytestmark = pytest.mark.real
APP = "library/app"


@dataclass
class World:
    public: PublicRegistry
    proxy: Proxy
    image: Image
    clock: Clock
    log: io.TextIOWrapper

    def assert_no_secret_is_told(self, canaries: Canaries, *answers: Reply) -> None:
        """Passwords, tokens and signatures stand in no log line, no answer and no file of the cache."""
        public = self.public
        canaries.add("password", public.password[1])
        for number, token in enumerate(public.realm.grants if public.realm is not None else ()):
            canaries.add(f"token {number}", token)
        for number, signature in enumerate(public.data.signatures if public.data is not None else ()):
            canaries.add(f"signature {number}", signature)
        for exchange in self.proxy.exchanges:
            tell_request(exchange)
        self.log.flush()
        told = self.log.buffer.getvalue()  # type: ignore[attr-defined]  # a BytesIO
        assert b'"event":"request"' in told
        canaries.assert_absent(told, *(answer.body + str(answer.headers).encode() for answer in answers))
        canaries.assert_absent_below([self.proxy.rooms.disk.directory.root])

    def blob_bytes(self) -> dict[str, int]:
        """How many bytes of each blob's body have left the profile's hosts."""
        sites = [self.public.registry, *([self.public.data] if self.public.data is not None else [])]
        return {
            str(part.digest): sum(
                request.sent_bytes
                for site in sites
                for request in site.requests
                if request.method == "GET" and part.digest.encoded in request.target and request.status in (200, 206)
            )
            for part in self.image.blobs
        }


@pytest.fixture(params=PROFILES)
async def world(
    request: pytest.FixtureRequest, ca: Authority, names: Names, clock: Clock, cache_dir: Path, short_tmp: Path
) -> AsyncIterator[World]:
    """Cistern in front of each profile in turn, which holds one image of two layers."""
    async with public_registry(request.param, ca, names, clock=clock) as public:
        image = public.add(APP, "v1", manifest(layer(), layer({"usr/share/noise": blob(200_000).data})))
        keys: dict[str, object] = {"tls": {"ca": str(ca.path)}, "proxy": "none"}
        extra = ""
        if public.profile.auth == "basic":
            user, password = public.password
            secret = short_tmp / "password"
            secret.write_text(password)
            keys["credentials"] = "own"
            extra = f"credentials: {{own: {{username: {user}, password: {{file: {secret}}}}}}}"
        with logged() as log:
            async with running(config_text(cache_dir, public.url, extra, **keys), clock, names) as proxy:
                Journal(monotonic=clock).listen(proxy.rooms.events)
                yield World(public, proxy, image, clock, log)


@contextmanager
def logged() -> Iterator[io.TextIOWrapper]:
    """What is logged meanwhile, from debug on, as the server writes it."""
    stream = io.TextIOWrapper(io.BytesIO())
    configure("json", "debug", stream)
    try:
        yield stream
    finally:
        structlog.reset_defaults()


async def ctr_pulls(world: World, node: Containerd, folder: Path) -> None:
    hosts = write_hosts(folder / "hosts", "_default", [Mirror(world.proxy.listener.url)])
    (await node.pull(f"{UPSTREAM}/{APP}:v1", hosts_dir=hosts)).check()
    await node.holds(world.image)


async def skopeo_pulls(world: World, folder: Path) -> None:
    (await skopeo_copy(f"{world.proxy.netloc}/{UPSTREAM}/{APP}:v1", folder)).check()
    skopeo_holds(folder, world.image)


async def test_the_journey_of_containerd(
    world: World, containerd: Containerd, canaries: Canaries, tmp_path: Path
) -> None:
    """containerd makes the ten steps, and the last of them with the registry gone."""
    await before_the_pull(world)
    await ctr_pulls(world, containerd, tmp_path)
    await after_the_pull(world, canaries)
    await containerd.fresh()
    await ctr_pulls(world, containerd, tmp_path)
    await nothing_more_was_fetched(world)


async def test_the_journey_of_skopeo(world: World, canaries: Canaries, tmp_path: Path) -> None:
    """skopeo makes the ten steps, and the last of them with the registry gone."""
    await before_the_pull(world)
    await skopeo_pulls(world, tmp_path / "first")
    await after_the_pull(world, canaries)
    await skopeo_pulls(world, tmp_path / "second")
    await nothing_more_was_fetched(world)


async def before_the_pull(world: World) -> None:
    """Steps 1 and 2: the ping needs no upstream; a HEAD of the tag tells digest, type and size."""
    assert (await world.proxy.ask("/v2/")).status == 200
    assert world.public.registry.requests == []
    head = await world.proxy.ask(
        f"{APP}/manifests/v1", method="HEAD", Cookie="a=b", Authorization="Basic Og==", X_Own="1"
    )
    assert (head.status, head.headers["Docker-Content-Digest"]) == (200, str(world.image.digest))
    assert head.headers["Content-Type"] == world.image.manifest.media_type
    assert head.headers["Content-Length"] == str(world.image.manifest.size)


async def after_the_pull(world: World, canaries: Canaries) -> None:
    """Steps 4 to 9, with the image just pulled; then the registry's hosts are stopped."""
    proxy, profile = world.proxy, world.public.profile
    await proxy.quiet()
    assert world.blob_bytes() == {str(part.digest): part.size for part in world.image.blobs}
    for part in world.image.blobs:
        assert proxy.stored(part.digest) == part.data
        head = await proxy.ask(f"{APP}/blobs/{part.digest}", method="HEAD")
        assert (head.status, head.headers["Content-Length"]) == (200, str(part.size))
    tags = await proxy.ask(f"{APP}/tags/list")
    assert tags.status == (404 if profile.no_tags else 200)
    assert profile.no_tags or json.loads(tags.body)["tags"] == ["v1"]
    referrers = await proxy.ask(f"{APP}/referrers/{world.image.digest}")
    assert referrers.status == (200 if profile.has_referrers else 404)
    assert profile.has_referrers or referrers.code == "MANIFEST_UNKNOWN"
    missing = await proxy.ask(f"{APP}/manifests/never")
    assert (missing.status, missing.code) == (404, "MANIFEST_UNKNOWN")
    nothing_but_the_protocol_was_sent(world)
    await throttled(world)
    world.assert_no_secret_is_told(canaries, tags, referrers, missing)
    for site in world.public.sites():
        await site.stop()
        site.forget()
    world.clock.advance(3600)


def nothing_but_the_protocol_was_sent(world: World) -> None:
    """No header and no `ns` of a client went upstream, nothing encoded was asked, no credential left its own host."""
    for site in world.public.sites():
        assert site is world.public.registry or site.requests
        for request in site.requests:
            assert request.headers["Accept-Encoding"] == "identity"
            assert request.headers["User-Agent"].startswith("cistern/")
            assert not {"Cookie", "X-Own", "Via", "Forwarded", "X-Forwarded-For"} & set(request.headers)
            assert request.headers.get("Authorization") != "Basic Og=="
            assert "ns" not in request.query
            assert site is not world.public.data or "Authorization" not in request.headers


async def throttled(world: World) -> None:
    """Step 9: every 429 that the registry knows leaves the held tag served, marked stale; for what is not here it is a
    503 with Retry-After, on which clients turn to the origin.
    """
    for kind in range(len(world.public.profile.throttles)):
        world.clock.advance(7200)
        world.public.throttle(kind)
        answer = await world.proxy.ask(f"{APP}/manifests/v1")
        assert (answer.status, answer.body) == (200, world.image.manifest.data)
        assert "stale" in answer.headers["Warning"]
        cold = await world.proxy.ask(f"{APP}/manifests/cold{kind}")
        assert (cold.status, cold.code) == (503, "TOOMANYREQUESTS")
        assert int(cold.headers["Retry-After"]) >= 1
        world.public.registry.heal()


async def nothing_more_was_fetched(world: World) -> None:
    """Step 10 was taken with every host gone, and the stored image is whole."""
    await world.proxy.quiet()
    assert [request for site in world.public.sites() for request in site.requests] == []
    for part in (world.image.manifest, *world.image.blobs):
        assert world.proxy.stored(part.digest) == part.data


async def test_a_private_image_needs_its_credentials(
    ca: Authority, names: Names, clock: Clock, cache_dir: Path, short_tmp: Path
) -> None:
    """Refused credentials are a 403 that names their set, a denial to an anonymous asker is a 404; no 401 ever."""
    async with public_registry("ecr", ca, names, clock=clock) as public:
        public.add(APP, "v1", manifest())
        (short_tmp / "wrong").write_text("not the password")
        for credentials, status in (("own", 403), (None, 404)):
            keys: dict[str, object] = {"tls": {"ca": str(ca.path)}, "proxy": "none"}
            keys |= {"credentials": credentials} if credentials else {}
            extra = f"credentials: {{own: {{username: me, password: {{file: {short_tmp / 'wrong'}}}}}}}"
            text = config_text(cache_dir, public.url, extra, **keys)
            async with running(text, clock, names) as proxy:
                answer = await proxy.ask(f"{APP}/manifests/v1")
                assert answer.status == status
                assert (b"own" in answer.body) == (status == 403)
                assert "WWW-Authenticate" not in answer.headers
