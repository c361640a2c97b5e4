"""Upstreams that lie or lead elsewhere, through the whole proxy: a clear answer, nothing kept, nobody dialled.

The rules themselves are tested beside the upstream room; here it is shown that every road obeys them.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.errors import CisternError
from proxy.errors import answer as answer_of
from proxy.events import NotStored
from proxy.journal import Journal
from proxy.outcome import Result
from proxy.upstream.session import UpstreamCall
from tests.support import script
from tests.support.clock import Clock
from tests.support.damage import flip_a_bit
from tests.support.images import Blob, Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, config_text, running
from tests.support.registry import Registry
from tests.support.site import Site, settled
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
def hydrated() -> str:
    """What is fetched without being asked for: nothing, so that each lie is met by one transfer alone."""
    return "none"


@pytest.fixture
async def proxy(
    cache_dir: Path, public: Registry, names: Names, ca: Authority, clock: Clock, short_tmp: Path, hydrated: str
) -> AsyncIterator[Proxy]:
    """A proxy that sends a password, if anybody asks for it in a way it trusts."""
    (short_tmp / "password").write_text("canary-password")
    extra = f"credentials: {{own: {{username: me, password: {{file: {short_tmp / 'password'}}}}}}}"
    extra += f"\nhydrate: {{image: {hydrated}}}"
    text = config_text(
        cache_dir, public.url, extra, credentials="own", proxy="none", tls={"ca": str(ca.path)},
        timeouts={"connect": "1s", "headers": "1s", "stall": "1s"},
    )  # fmt: skip
    async with running(text, clock, names) as started:
        started.hear(NotStored, UpstreamCall)
        Journal(monotonic=clock).listen(started.rooms.events)
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
        assert answer.status in (403, 404, 502, 503), road
        assert b"canary" not in answer.body
    assert bystander.requests == []
    assert set(names.looked_up) == {"registry.example.com"}
    assert not [request for request in public.requests if "Authorization" in request.headers]
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


PRIVATE = {
    "loopback": "https://127.0.0.1:{port}/x",
    "house": "https://10.0.0.1/x",
    "CGNAT": "https://100.64.0.1/x",
    "mapped loopback": "https://[::ffff:127.0.0.1]:{port}/x",
    "a name of the house": "https://inside.example.com:{port}/x",
}


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


# The roads beside a client's cold GET: what else makes us ask an upstream, once something is here or on its way.


@dataclass(frozen=True)
class Way:
    """`before` is while the upstream is honest; `go` asks, and tells the statuses or errors that were told."""

    go: Callable[[Proxy, Image], Awaitable[object]]
    before: Callable[[Proxy, Registry, Image], Awaitable[None]] | None = None


async def told(proxy: Proxy, path: str, method: str = "GET") -> object:
    """What a client is told: a status, None for a dropped connection."""
    try:
        return (await proxy.ask(path, method=method)).status
    except (ConnectionError, asyncio.IncompleteReadError):
        return None


async def pulled(proxy: Proxy, _public: Registry, image: Image) -> None:
    assert await told(proxy, f"{APP}/manifests/1") == 200
    assert await told(proxy, target("blob", image)) == 200
    await proxy.quiet()


async def held_elsewhere(proxy: Proxy, public: Registry, image: Image) -> None:
    """The blob is here, and its upstream has it in another repository too."""
    await pulled(proxy, public, image)
    public.add_blob("team/other", image.layers[0])


async def cut_once(_proxy: Proxy, public: Registry, image: Image) -> None:
    """The blob's first answer ends in the middle."""
    public.script(f"/v2/{APP}/blobs/{image.layers[0].digest}", script.cut(100_000), times=1)


async def refreshed(proxy: Proxy, _image: Image) -> object:
    """`cistern refresh` of a tag that is held."""
    route = proxy.rooms.current.rules.route(f"{UPSTREAM}/{APP}")
    try:
        return (await proxy.rooms.tags.refresh(route, "1")).descriptor
    except CisternError as error:
        return answer_of(error)[0]


async def repaired(proxy: Proxy, image: Image) -> object:
    """`cistern verify --repair` of a layer that went bad: 200 if it was mended."""
    flip_a_bit(proxy.rooms.disk.blobs.path_of(image.layers[0].digest))
    report = await proxy.rooms.verify.all(repair=True)
    [found] = [bad for bad in report.bad if bad.digest == image.layers[0].digest]
    return 200 if found.mended else found.why_not


WAYS: dict[str, Way] = {
    "HEAD of a tag": Way(lambda proxy, _: told(proxy, f"{APP}/manifests/1", "HEAD")),
    "HEAD of a manifest": Way(lambda proxy, image: told(proxy, f"{APP}/manifests/{image.digest}", "HEAD")),
    "HEAD of a blob": Way(lambda proxy, image: told(proxy, target("blob", image), "HEAD")),
    "check of a tag": Way(lambda proxy, _: told(proxy, f"{APP}/manifests/1"), pulled),
    "proof that another repository has it": Way(
        lambda proxy, image: told(proxy, f"team/other/blobs/{image.layers[0].digest}"), held_elsewhere
    ),
    "resume of a cut body": Way(lambda proxy, image: told(proxy, target("blob", image)), cut_once),
    "refresh": Way(refreshed, pulled),
    "repair": Way(repaired, pulled),
    "ping": Way(lambda proxy, _: proxy.rooms.upstreams.ping(UPSTREAM)),
}


def challenged(text: str, port: int) -> Fault:
    """Every answer is a challenge of this text."""
    named = text.format(port=f"127.0.0.1:{port}", number=port)
    return script.become(reply(401, b"{}", "application/json", **{"WWW-Authenticate": named}))


def leads(port: int) -> dict[str, Fault]:
    """Everything that would lead to the bystander's port, or to a place where nobody may go."""
    found = {f"realm: {name}": challenged(text, port) for name, text in REALMS.items()}
    elsewhere = {name: script.redirect(text.format(port=port)) for name, text in (ELSEWHERE | PRIVATE).items()}
    return found | elsewhere


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
async def test_no_road_leads_elsewhere(
    proxy: Proxy, public: Registry, bystander: Bystander, names: Names, clock: Clock, image: Image, way: Way
) -> None:
    """Foreign realms and redirects to elsewhere are followed on no road at all (V12 to V16, V28 to V30): nobody is
    dialled, nothing of a credential leaves, and the next honest answer is served.
    """
    names.place("registry.example.com", "127.0.0.1", "192.0.2.1")  # never dialled: the first one answers
    names.place("inside.example.com", "127.0.0.1")
    for number, (name, lead) in enumerate(leads(bystander.port).items()):
        again = public.add(APP, "1", manifest(blob(200_000, seed=number)))
        if way.before is not None:
            await way.before(proxy, public, again)
        clock.advance(3600)
        public.script("*", lead, methods=("GET", "HEAD"))
        if way.before is cut_once:  # honest once, and cut: then it leads elsewhere
            await cut_once(proxy, public, again)
        outcome = await way.go(proxy, again)
        await proxy.quiet()
        assert outcome not in (200, 206) or (way.before is pulled and way.go is not repaired), name
        assert bystander.requests == [], name
        public.heal()
    assert set(names.looked_up) <= {"registry.example.com", "inside.example.com"}
    assert not [request for request in public.requests if "Authorization" in request.headers]
    clock.advance(3600)
    assert (await proxy.ask(f"{APP}/manifests/1")).status == 200


@pytest.mark.parametrize("hydrated", ["pulled_platforms"])
async def test_hydration_leads_nowhere_either(
    proxy: Proxy, public: Registry, bystander: Bystander, names: Names, clock: Clock
) -> None:
    """What nobody waits for obeys as well: an honest manifest and config, and layers that lead elsewhere."""
    names.place("registry.example.com", "127.0.0.1", "192.0.2.1")
    names.place("inside.example.com", "127.0.0.1")
    for number, (name, lead) in enumerate(leads(bystander.port).items()):
        image = public.add(APP, f"{number}", manifest(blob(100, seed=2 * number), blob(200_000, seed=2 * number + 1)))
        layer = image.layers[-1].digest
        public.script(layer, lead, methods=("GET", "HEAD"))
        assert await told(proxy, f"{APP}/manifests/{number}") == 200
        assert (await proxy.pull(image.blobs[0])).status == 200
        await proxy.rooms.hydrate.heard()
        while not public.recorded(layer):
            await settled()
        await proxy.quiet()
        assert proxy.stored(layer) is None, name
        assert bystander.requests == [], name
        public.heal()
        clock.advance(3600)
    assert set(names.looked_up) <= {"registry.example.com", "inside.example.com"}
    assert not [request for request in public.requests if "Authorization" in request.headers]


LOOP = "/v2/team/app/manifests/1"
# what an upstream does to a manifest's GET -> what a client is told
MANIFEST_LIES: dict[str, tuple[tuple[Fault, ...], int]] = {
    "html": ((script.html(),), 502),
    "another manifest": ((script.become(reply(200, b"{}", "application/vnd.oci.image.manifest.v1+json")),), 502),
    "short": ((script.declare(300_000),), 503),
    "endless": ((script.endless,), 502),
    "redirect loop": ((script.redirect(LOOP),), 502),
    "brotli": ((script.set_header("Content-Encoding", "br"),), 502),
}


@pytest.mark.parametrize(("faults", "status"), MANIFEST_LIES.values(), ids=MANIFEST_LIES.keys())
async def test_a_lying_manifest_is_told_and_not_kept(
    proxy: Proxy, public: Registry, image: Image, faults: tuple[Fault, ...], status: int
) -> None:
    """An error and one line for it, nothing is stored, and the next honest answer is served at once."""
    public.script("1", *faults, methods=("GET", "HEAD"))
    with capture_logs() as lines:
        answer = await proxy.ask(f"{APP}/manifests/1")
    assert answer.status == status
    assert [line for line in lines if line["log_level"] == "error"] == []
    (exchange,) = proxy.exchanges
    assert (exchange.result, exchange.error is None) == (Result.ERROR, False)
    assert not [path for path in (proxy.rooms.disk.directory.root / "blobs").rglob("*") if path.is_file()]
    public.heal()
    assert (await proxy.ask(f"{APP}/manifests/1")).body == image.manifest.data


async def test_a_gzipped_manifest_is_unpacked(proxy: Proxy, public: Registry, image: Image) -> None:
    """Some registries pack small answers whatever they are asked (B16): the client gets the bytes of the digest."""
    public.script("1", script.compress)
    answer = await proxy.ask(f"{APP}/manifests/1")
    assert (answer.status, answer.body) == (200, image.manifest.data)
    assert "Content-Encoding" not in answer.headers


# what an upstream does to a blob -> the word for it; those that show after bytes have flowed drop the connection
EARLY: dict[str, tuple[Fault, ...]] = {"html": (script.html(),), "gzip": (script.compress,)}
LATE: dict[str, tuple[tuple[Fault, ...], str]] = {
    "wrong digest": ((script.spoil(-1),), "wrong_digest"),
    "spoilt at the start": ((script.spoil(0),), "wrong_digest"),
    "short": ((script.close_delimited, script.cut(0)), "upstream_unavailable"),
    "endless": ((script.endless,), "upstream_lied"),
}


@pytest.mark.parametrize("faults", EARLY.values(), ids=EARLY.keys())
async def test_a_lying_blob_is_a_502_counted_once(
    proxy: Proxy, public: Registry, image: Image, faults: tuple[Fault, ...]
) -> None:
    """A blob answered by HTML or gzip is a 502 before any byte, counted once, not kept; the next answer is served."""
    layer: Blob = image.layers[0]
    public.script(layer.digest, *faults, times=1)
    with capture_logs() as lines:
        answer = await proxy.pull(layer)
    assert (answer.status, answer.code) == (502, "UNKNOWN")
    await honest_again(proxy, layer, lines, "upstream_lied")


@pytest.mark.parametrize(("faults", "reason"), LATE.values(), ids=LATE.keys())
async def test_a_lie_after_bytes_have_flowed_drops_the_connection(
    proxy: Proxy, public: Registry, image: Image, faults: tuple[Fault, ...], reason: str
) -> None:
    """No client takes a wrong, short or endless body for whole; it is counted once, and the next answer is served."""
    layer: Blob = image.layers[0]
    await proxy.ask(f"{APP}/manifests/1")  # tells the size
    public.script(layer.digest, *faults)
    if reason == "upstream_unavailable":  # first short, then again and again without a byte more
        public.script(layer.digest, script.cut(150_000), times=1)
    with capture_logs() as lines:
        pulling = await proxy.start_pull(layer)
        with pytest.raises(ConnectionError):
            await pulling.rest()
        await proxy.quiet()
    assert pulling.status == 200
    assert len(pulling.body) < layer.size
    public.heal()
    await honest_again(proxy, layer, lines, reason)


async def test_a_small_blob_of_wrong_bytes_is_a_true_502(proxy: Proxy, public: Registry, image: Image) -> None:
    """What fits into the bytes held back is judged before its headers leave."""
    config = image.blobs[0]
    public.script(config.digest, script.spoil(5), times=1)
    with capture_logs() as lines:
        answer = await proxy.pull(config)
    assert (answer.status, answer.code) == (502, "UNKNOWN")
    await honest_again(proxy, config, lines, "wrong_digest")


async def honest_again(proxy: Proxy, wanted: Blob, lines: Sequence[Mapping[str, object]], reason: str) -> None:
    """One count and one line with this reason; nothing is stored; the next answer is whole, at once."""
    assert [event.reason for event in proxy.heard if isinstance(event, NotStored)] == [reason]
    assert [line["reason"] for line in lines if line["event"] == "not stored"] == [reason]
    assert [exchange.result for exchange in proxy.exchanges if exchange.kind == "blob"] == [Result.ERROR]
    assert proxy.stored(wanted.digest) is None
    # What an outage cut short is kept, to go on from; what a liar sent is not.
    assert bool(list(proxy.rooms.disk.directory.root.rglob("*.part"))) == (reason == "upstream_unavailable")
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()
    assert proxy.stored(wanted.digest) == wanted.data


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
