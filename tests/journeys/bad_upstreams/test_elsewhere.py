"""Upstreams that lead elsewhere, on each road of a client: a clear answer, and nobody dialled.

The rules themselves are tested beside the upstream room; here it is shown that every road obeys them.
"""

from pathlib import Path

import pytest

from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.leading import APP, ELSEWHERE, PRIVATE, REALMS, ROADS, Bystander, target
from tests.support.proxy import Proxy, config_text, running
from tests.support.registry import Registry
from tests.support.tls import Authority, Names
from tests.support.wire import reply


def last_of(path: str) -> str:
    return path.rpartition("/")[2]


@pytest.mark.parametrize("challenge", REALMS.values(), ids=REALMS.keys())
async def test_an_untrusted_realm_is_not_dialled(
    proxy: Proxy, public: Registry, bystander: Bystander, names: Names, image: Image, challenge: str
) -> None:
    """Credentials go to the registry's own site or nowhere (CVE-2026-33540); the next honest answer is served."""
    named = challenge.format(port=f"127.0.0.1:{bystander.port}", number=bystander.port)
    denied = script.become(reply(401, b"{}", "application/json", **{"WWW-Authenticate": named}))
    public.script("*", denied, methods=("GET", "HEAD"))
    for road in ROADS:
        answer = await proxy.ask(target(road, image))
        assert (road, answer.status) == (road, 502)
        assert b"canary" not in answer.body
    assert bystander.requests == []
    assert set(names.looked_up) == {"registry.example.com"}
    assert not [request for request in public.requests if "Authorization" in request.headers]
    public.heal()
    assert (await proxy.ask(f"{APP}/manifests/1")).status == 200


@pytest.mark.parametrize("location", ELSEWHERE.values(), ids=ELSEWHERE.keys())
async def test_a_redirect_to_elsewhere_is_not_dialled(
    proxy: Proxy, public: Registry, bystander: Bystander, image: Image, location: str
) -> None:
    """Redirects to metadata, to plain http or to another scheme are a 502 on every road, and nobody is dialled."""
    redirected = script.redirect(location.format(port=bystander.port))
    for road in ROADS:
        path = target(road, image)
        public.script(last_of(path), redirected, methods=("GET", "HEAD"))
        answer = await proxy.ask(path)
        assert (answer.status, answer.code) == (502, "UNKNOWN"), road
    assert bystander.requests == []


@pytest.mark.parametrize("road", ROADS)
async def test_a_public_registry_may_not_lead_into_the_house(
    proxy: Proxy, public: Registry, bystander: Bystander, names: Names, image: Image, road: str
) -> None:
    """A registry that has an address outside the house may not redirect into it: 502, nobody is dialled (V28)."""
    names.place("registry.example.com", "127.0.0.1", "192.0.2.1")  # never dialled: the first one answers
    names.place("inside.example.com", "127.0.0.1")
    path = target(road, image)
    for location in PRIVATE.values():
        redirected = script.redirect(location.format(port=bystander.port))
        public.script(last_of(path), redirected, methods=("GET", "HEAD"))
        answer = await proxy.ask(path)
        assert (answer.status, answer.code) == (502, "UNKNOWN"), location
    assert bystander.requests == []


class Rebinding(Names):
    """A name server that tells another address the second time, as DNS rebinding does."""

    async def resolve(self, host: str) -> list[str]:
        found = await super().resolve(host)
        self.place(host, "169.254.169.254")
        return found


async def test_what_was_checked_is_what_is_dialled(
    cache_dir: Path, public: Registry, ca: Authority, clock: Clock, image: Image
) -> None:
    """DNS that changes between check and dial gains nothing: one look-up, and its very address is dialled (V30)."""
    rebinding = Rebinding()
    rebinding.place("registry.example.com", "127.0.0.1")
    text = config_text(cache_dir, public.url, proxy="none", tls={"ca": str(ca.path)})
    async with running(text, clock, rebinding) as proxy:
        assert (await proxy.ask(f"{APP}/manifests/1")).body == image.manifest.data
        assert (await proxy.pull(image.layers[0])).body == image.layers[0].data
        await proxy.quiet()
        await proxy.rooms.hydrate.heard()
    assert rebinding.looked_up == ["registry.example.com"]
    assert rebinding.hosts["registry.example.com"] == ["169.254.169.254"]


async def test_a_name_that_resolves_to_metadata(
    proxy: Proxy, public: Registry, names: Names, bystander: Bystander, image: Image
) -> None:
    """A redirect's name that resolves to metadata, alone or among others, is never dialled."""
    names.place("cdn.example.com", "169.254.169.254")
    layer = image.layers[0]
    public.script(layer.digest, script.redirect(f"https://cdn.example.com:{bystander.port}/x"))
    assert (await proxy.pull(layer)).status == 502
    names.place("cdn.example.com", "127.0.0.1", "169.254.169.254")
    assert (await proxy.pull(layer)).status == 502
    assert bystander.requests == []


async def test_a_link_to_elsewhere_stays_here(proxy: Proxy, public: Registry, image: Image) -> None:
    """The Link of a list never leads a client to another host: such a list is refused."""
    public.script("list", script.set_header("Link", '<https://evil.test/v2/team/app/tags/list?last=1&n=1>; rel="next"'))
    answer = await proxy.ask(f"{APP}/tags/list")
    assert answer.status == 502
    assert "evil" not in answer.headers.get("Link", "")


@pytest.mark.parametrize("hydrated", ["pulled_platforms"])
async def test_a_foreign_layer_is_not_followed(proxy: Proxy, public: Registry, bystander: Bystander) -> None:
    """The `urls` of a foreign layer are the client's business (CVE-2020-15157): nobody is dialled for them."""
    foreign = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": str(blob(4321).digest),
        "size": 4321,
        "urls": [f"{bystander.url}/layer"],
    }
    image = public.add(APP, "windows", manifest(blob(500), extra={"blobs": [foreign]}))
    await proxy.ask(f"{APP}/manifests/windows")
    await proxy.pull(image.blobs[0])
    await proxy.rooms.hydrate.heard()
    await proxy.quiet()
    assert bystander.requests == []
    assert not any(str(foreign["digest"]) in request.target for request in public.requests)
