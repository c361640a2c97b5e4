"""Upstreams that lie or lead elsewhere, through the whole proxy: a clear answer, nothing kept, nobody dialled.

The rules themselves are tested beside the upstream room; here it is shown that every road obeys them.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.events import NotStored
from proxy.upstream.session import UpstreamCall
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob, Image, blob, manifest
from tests.support.proxy import Proxy, config_text, running
from tests.support.registry import Registry
from tests.support.site import Site
from tests.support.tls import Authority, Names
from tests.support.wire import Answer, Fault, Recorded, reply

APP = "team/app"
ROADS = ["manifest", "blob", "tags", "referrers"]


class Bystander(Site):
    """A host that nobody may be led to: it only records who came."""

    async def answer(self, request: Recorded) -> Answer:
        return reply(200, b"{}", "application/json")


@pytest.fixture
async def bystander() -> AsyncIterator[Bystander]:
    async with Bystander() as site:
        yield site


@pytest.fixture
async def public(ca: Authority, names: Names) -> AsyncIterator[Registry]:
    """A registry under a public-looking TLS name."""
    names.place("registry.example.com", "127.0.0.1")
    async with Registry(name="registry.example.com", tls=ca.server("registry.example.com")) as site:
        yield site


@pytest.fixture
def image(public: Registry) -> Image:
    return public.add(APP, "1", manifest(blob(200_000)))


@pytest.fixture
async def proxy(
    cache_dir: Path, public: Registry, names: Names, ca: Authority, clock: Clock, short_tmp: Path
) -> AsyncIterator[Proxy]:
    """A proxy that sends a password, if anybody asks for it in a way it trusts."""
    (short_tmp / "password").write_text("canary-password")
    extra = f"credentials: {{own: {{username: me, password: {{file: {short_tmp / 'password'}}}}}}}"
    text = config_text(
        cache_dir, public.url, extra, credentials="own", proxy="none", tls={"ca": str(ca.path)},
        timeouts={"connect": "1s", "headers": "1s", "stall": "1s"},
    )  # fmt: skip
    async with running(text, clock, names) as started:
        started.hear(NotStored, UpstreamCall)
        yield started


def target(road: str, image: Image) -> str:
    layer = image.layers[0].digest
    return {
        "manifest": f"{APP}/manifests/1",
        "blob": f"{APP}/blobs/{layer}",
        "tags": f"{APP}/tags/list",
        "referrers": f"{APP}/referrers/{image.digest}",
    }[road]


def last_of(path: str) -> str:
    return path.rpartition("/")[2]


REALMS = {
    "another domain": 'Bearer realm="http://{port}/token",service="x"',
    "plain http": 'Bearer realm="http://registry.example.com:{number}/token",service="x"',
    "userinfo": 'Bearer realm="https://registry.example.com@{port}/token",service="x"',
    "IP literal": 'Bearer realm="https://{port}/token",service="x"',
    "look-alike": 'Bearer realm="https://registry.example.com.evil.test:{number}/token",service="x"',
    "metadata": 'Bearer realm="https://169.254.169.254/token",service="x"',
    "backslash": 'Bearer realm="https://registry.example.com\\\\@{port}/token",service="x"',
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("challenge", REALMS.values(), ids=REALMS.keys())
async def test_an_untrusted_realm_is_not_dialled(
    proxy: Proxy, public: Registry, bystander: Bystander, names: Names, image: Image, challenge: str, road: str
) -> None:
    """Credentials go to the registry's own site or nowhere (CVE-2026-33540); the next honest answer is served."""
    named = challenge.format(port=f"127.0.0.1:{bystander.port}", number=bystander.port)
    denied = script.become(reply(401, b"{}", "application/json", **{"WWW-Authenticate": named}))
    public.script("*", denied, methods=("GET", "HEAD"))
    answer = await proxy.ask(target(road, image))
    assert answer.status in (403, 404, 502, 503)
    assert b"canary" not in answer.body
    assert bystander.requests == []
    assert not any("evil" in name or "169.254" in name for name in names.looked_up)
    public.heal()
    assert (await proxy.ask(f"{APP}/manifests/1")).status == 200


ELSEWHERE = {
    "metadata": "http://169.254.169.254/latest/meta-data",
    "metadata over TLS": "https://169.254.169.254/latest",
    "IPv6 metadata": "https://[fd00:ec2::254]/x",
    "NAT64 of metadata": "https://[64:ff9b::a9fe:a9fe]/x",
    "plain http": "http://cdn.example.com:{port}/x",
    "another scheme": "file:///etc/passwd",
}


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("where", ELSEWHERE)
async def test_a_redirect_to_elsewhere_is_not_dialled(
    proxy: Proxy, public: Registry, bystander: Bystander, image: Image, where: str, road: str
) -> None:
    """Redirects to metadata, to plain http or to another scheme are a 502 on every road, and nobody is dialled."""
    location = ELSEWHERE[where].format(port=bystander.port)
    path = target(road, image)
    public.script(last_of(path), script.redirect(location), methods=("GET", "HEAD"))
    answer = await proxy.ask(path)
    assert (answer.status, answer.code) == (502, "UNKNOWN")
    assert bystander.requests == []


LIES: dict[str, Fault] = {
    "html": script.html(),
    "gzip": script.compress,
    "short": script.declare(300_000),
    "redirect loop": script.redirect("/v2/team/app/manifests/1"),
}


@pytest.mark.parametrize("lie", ["html", "short"])
async def test_a_lying_manifest_is_told_once_and_not_kept(
    proxy: Proxy, public: Registry, image: Image, lie: str
) -> None:
    """A page of HTML or a short body for a manifest is an error, nothing is stored, and the next answer is served."""
    public.script("1", LIES[lie], times=2, methods=("GET", "HEAD"))
    answer = await proxy.ask(f"{APP}/manifests/1")
    assert answer.status in (502, 503)
    assert proxy.stored(image.digest) is None
    public.heal()
    assert (await proxy.ask(f"{APP}/manifests/1")).body == image.manifest.data


@pytest.mark.parametrize("lie", ["html", "gzip"])
async def test_a_lying_blob_is_a_502_counted_once(proxy: Proxy, public: Registry, image: Image, lie: str) -> None:
    """A blob answered by HTML or gzip is a 502 before any byte, counted once, not kept; the next answer is served."""
    layer: Blob = image.layers[0]
    public.script(layer.digest, LIES[lie], times=1)
    answer = await proxy.pull(layer)
    assert (answer.status, answer.code) == (502, "UNKNOWN")
    assert [event.reason for event in proxy.heard if isinstance(event, NotStored)] == ["upstream_lied"]
    assert proxy.stored(layer.digest) is None
    assert (await proxy.pull(layer)).body == layer.data
    await proxy.quiet()


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
    """The Link of a list never leads a client to another host: only its query is kept."""
    public.script("list", script.set_header("Link", '<https://evil.test/v2/team/app/tags/list?last=1&n=1>; rel="next"'))
    answer = await proxy.ask(f"{APP}/tags/list")
    assert answer.status in (200, 502)
    assert "evil" not in answer.headers.get("Link", "")


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
