"""The roads beside a client's cold GET: what else makes us ask an upstream leads nowhere either."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import pytest

from proxy.errors import CisternError
from proxy.errors import answer as answer_of
from tests.support import script
from tests.support.clock import Clock
from tests.support.damage import flip_a_bit
from tests.support.images import Image, blob, manifest
from tests.support.leading import APP, ELSEWHERE, PRIVATE, REALMS, Bystander, target
from tests.support.proxy import UPSTREAM, Proxy
from tests.support.registry import Registry
from tests.support.tls import Names
from tests.support.waiting import until
from tests.support.wire import Fault, reply


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


SLOW = {"resume of a cut body", "repair"}  # each lead costs several requests and their pauses
SAMPLE = 4  # of them every fourth lead; all of them in the long form
EVERY = pytest.param(1, id="every lead", marks=pytest.mark.long)


@pytest.mark.parametrize(
    ("way", "step"),
    [
        *(pytest.param(way, SAMPLE if name in SLOW else 1, id=name) for name, way in WAYS.items()),
        *(pytest.param(WAYS[name], 1, id=f"{name}, every lead", marks=pytest.mark.long) for name in sorted(SLOW)),
    ],
)
async def test_no_road_leads_elsewhere(
    proxy: Proxy, public: Registry, bystander: Bystander, names: Names, clock: Clock, image: Image, way: Way, step: int
) -> None:
    """Foreign realms and redirects to elsewhere are followed on no road at all (V12 to V16, V28 to V30): nobody is
    dialled, nothing of a credential leaves, and the next honest answer is served.
    """
    names.place("registry.example.com", "127.0.0.1", "192.0.2.1")  # never dialled: the first one answers
    names.place("inside.example.com", "127.0.0.1")
    for number, (name, lead) in enumerate([*leads(bystander.port).items()][::step]):
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
@pytest.mark.parametrize("step", [pytest.param(SAMPLE, id="a sample"), EVERY])
async def test_hydration_leads_nowhere_either(
    proxy: Proxy, public: Registry, bystander: Bystander, names: Names, clock: Clock, step: int
) -> None:
    """What nobody waits for obeys as well: an honest manifest and config, and layers that lead elsewhere."""
    names.place("registry.example.com", "127.0.0.1", "192.0.2.1")
    names.place("inside.example.com", "127.0.0.1")
    for number, (name, lead) in enumerate([*leads(bystander.port).items()][::step]):
        image = public.add(APP, f"{number}", manifest(blob(100, seed=2 * number), blob(200_000, seed=2 * number + 1)))
        layer = image.layers[-1].digest
        public.script(layer, lead, methods=("GET", "HEAD"))
        assert await told(proxy, f"{APP}/manifests/{number}") == 200
        assert (await proxy.pull(image.blobs[0])).status == 200
        await proxy.rooms.hydrate.heard()
        await until(partial(public.recorded, layer))
        await proxy.quiet()
        assert proxy.stored(layer) is None, name
        assert bystander.requests == [], name
        public.heal()
        clock.advance(3600)
    assert set(names.looked_up) <= {"registry.example.com", "inside.example.com"}
    assert not [request for request in public.requests if "Authorization" in request.headers]
