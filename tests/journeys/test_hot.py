"""Manifests asked for again: the answer that stands ready is the ordinary one, and gives way in time."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import ClientSession

from proxy.app import registry_of
from proxy.config import Address, parse
from proxy.events import ManifestFetched
from proxy.exchange import Exchange
from proxy.rules import Rules
from proxy.server.door import Door
from proxy.server.gate import Gate
from proxy.server.listen import listen
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.kept import Kept, kept
from tests.support.proxy import UPSTREAM, AlwaysReady, Proxy, config_text, proxied
from tests.support.pulling import one_after_another
from tests.support.registry import Registry

APP = "team/app"
TAG = f"{APP}/manifests/1"
OFTEN = 20


@pytest.fixture
async def proxy(cache_dir: Path, registry: Registry, clock: Clock) -> AsyncIterator[Proxy]:
    async with proxied(cache_dir, registry, clock, extra="hydrate: {image: none}\n") as running:
        yield running


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add(APP, "1", manifest(blob(2000)))


async def heat(proxy: Proxy, path: str = TAG, **headers: str) -> None:
    """Ask until the answer stands ready: cold, then held, then ready."""
    for method in ("GET", "GET", "GET", "HEAD", "HEAD"):
        assert (await proxy.ask(path, method=method, **headers)).status == 200


async def test_a_crowd_costs_the_ordinary_road_once(proxy: Proxy, registry: Registry, image: Image) -> None:
    """Who listens for uses does not hear of each request of a crowd, the log and the metrics do."""
    proxy.hear(ManifestFetched)
    await heat(proxy)
    before = len(proxy.exchanges)
    for _ in range(OFTEN):
        answer = await proxy.ask(TAG)
        assert (answer.status, answer.body) == (200, image.manifest.data)
    assert len(proxy.heard) < OFTEN
    told = [exchange.line() for exchange in proxy.exchanges[before:]]
    assert len(told) == OFTEN
    assert {(line["reference"], line["rule"], line["kind"], line["outcome"], line["bytes"]) for line in told} == {
        (f"{UPSTREAM}/{APP}:1", UPSTREAM, "manifest", "hit", len(image.manifest.data))
    }
    assert registry.requests_for("1") == 1


@pytest.mark.parametrize(
    "path",
    [TAG, f"/v2/{APP}/manifests/1?ns={UPSTREAM}", f"/{UPSTREAM}/v2/{APP}/manifests/1"],
    ids=["path", "ns", "prefix"],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_answer_is_the_same_however_it_is_made(proxy: Proxy, image: Image, path: str, method: str) -> None:
    """Held and ready answers have the same status, headers and bytes; only the date moves."""
    await proxy.ask(path)
    held, *ready = [await proxy.ask(path, method=method) for _ in range(4)]
    for answer in ready:
        same = [(name, value) for name, value in answer.headers.items() if name != "Date"]
        assert same == [(name, value) for name, value in held.headers.items() if name != "Date"]
        assert (answer.status, answer.body) == (held.status, held.body)
    assert ready[0].headers["Cache-Status"].endswith("; hit")
    assert "Date" in ready[0].headers


async def test_conditions_and_ranges_are_as_ever(proxy: Proxy, image: Image) -> None:
    """If-None-Match is a 304 also of a ready answer, and a Range on a manifest gets the whole."""
    await heat(proxy)
    for tag in (f'"{image.digest}"', str(image.digest), "*"):
        assert (await proxy.ask(TAG, If_None_Match=tag)).status == 304
    assert (await proxy.ask(TAG, If_None_Match='"other"')).status == 200
    ranged = await proxy.ask(TAG, Range="bytes=0-")
    assert (ranged.status, ranged.body) == (200, image.manifest.data)
    assert proxy.exchanges[-1].range == "bytes=0-"


async def test_past_fresh_for_a_ready_tag_is_checked(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """To the second: within `fresh_for` nobody is asked, from then on the upstream is, and what moved is served."""
    await heat(proxy)
    clock.advance(59.9)
    await proxy.ask(TAG)
    assert registry.requests_for("1", "HEAD") == 0
    moved = registry.add(APP, "1", manifest(blob(999)))
    clock.advance(0.2)
    assert (await proxy.ask(TAG)).body == moved.manifest.data
    assert registry.requests_for("1", "HEAD") == 1


async def test_a_clock_that_goes_back_makes_a_ready_tag_be_checked(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """A stamp from the future is no stamp."""
    await heat(proxy)
    clock.advance(-3600)
    await proxy.ask(TAG)
    assert registry.requests_for("1", "HEAD") == 1


async def test_a_refreshed_tag_is_served_at_once(proxy: Proxy, registry: Registry, image: Image) -> None:
    """`cistern refresh` moves a tag that stands ready, before its `fresh_for` is over."""
    await heat(proxy)
    moved = registry.add(APP, "1", manifest(blob(999)))
    route = proxy.rooms.rules.route(f"{UPSTREAM}/{APP}")
    await proxy.rooms.tags.refresh(route, "1")
    for _ in range(3):
        assert (await proxy.ask(TAG)).body == moved.manifest.data


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        pytest.param("block: ['{digest}']", 403, id="blocked"),
        pytest.param(f"rules: [{{name: no, upstream: {UPSTREAM}/team/*, deny: true}}]", 403, id="denied"),
        pytest.param("", 200, id="unchanged"),
    ],
)
async def test_a_reload_is_obeyed_at_once(
    cache_dir: Path, registry: Registry, proxy: Proxy, image: Image, extra: str, status: int
) -> None:
    """What is denied or blocked from now on is not served from what stood ready before."""
    by_digest = f"{APP}/manifests/{image.digest}"
    await heat(proxy)
    await heat(proxy, by_digest)
    config = parse(config_text(cache_dir, registry, extra.replace("{digest}", str(image.digest))), "new.yaml", {})
    proxy.rooms.current.take(config, Rules(config))
    for path in (TAG, by_digest):
        for method in ("GET", "HEAD"):
            assert (await proxy.ask(path, method=method)).status == status


async def test_what_was_evicted_is_not_ready(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """An evicted image is fetched again, not sent from memory."""
    image = registry.add(APP, "1", manifest(blob(2000)))
    async with kept(cache_dir, registry, clock) as rooms:
        await heat(rooms.proxy)
        await evict(rooms)
        answer = await rooms.proxy.ask(TAG)
        assert answer.body == image.manifest.data
        assert answer.headers["Cache-Status"].endswith("; fwd=miss; stored")


async def evict(rooms: Kept) -> None:
    await rooms.evict.named(f"{UPSTREAM}/{APP}:1")


async def test_another_credential_sets_place_is_not_served(proxy: Proxy, registry: Registry, image: Image) -> None:
    """A digest that stands ready in one repository proves nothing in another."""
    await heat(proxy, f"{APP}/manifests/{image.digest}")
    registry.script(image.digest, script.error(404))
    assert (await proxy.ask(f"other/repo/manifests/{image.digest}")).status == 404


async def test_a_closing_client_is_told_so(proxy: Proxy, image: Image) -> None:
    """`Connection: close` of a client is answered in kind, ready or not."""
    await heat(proxy)
    assert (await proxy.ask(TAG, Connection="close")).headers["Connection"] == "close"


async def test_an_old_protocol_gets_its_own_version(proxy: Proxy, image: Image) -> None:
    """HTTP/1.0 takes the ordinary road: no ready answer is of its version."""
    await heat(proxy)
    head, body = await raw(proxy, f"GET /v2/{UPSTREAM}/{TAG} HTTP/1.0\r\nHost: x\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert body == image.manifest.data


async def test_targets_that_clients_make_up_are_bounded(proxy: Proxy, registry: Registry, image: Image) -> None:
    """A longer target than any client's is answered and not kept; a thousand short ones are answered alike (V37)."""
    for number in (*range(200), "x" * 1500):
        assert (await proxy.ask(f"{TAG}?number={number}")).body == image.manifest.data
    assert registry.requests_for("1") == 1


async def raw(proxy: Proxy, request: str) -> tuple[bytes, bytes]:
    """Head and body of an answer to a request that no library made, on a connection that the server closes."""
    host, _, port = proxy.netloc.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request.encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return head, body


@dataclass
class Doorway:
    """A registry address over the same rooms that lets one client in."""

    handler: Door
    url: str
    exchanges: list[Exchange] = field(default_factory=list)

    async def ask(self, client: ClientSession) -> tuple[int, str | None, bytes]:
        """Status, Connection header and body of a manifest."""
        async with client.get(f"{self.url}/v2/{UPSTREAM}/{TAG}") as answer:
            return answer.status, answer.headers.get("Connection"), await answer.read()


@pytest.fixture
async def doorway(proxy: Proxy) -> AsyncIterator[Doorway]:
    exchanges: list[Exchange] = []
    handler = registry_of(proxy.rooms, AlwaysReady(), exchanges.append)
    listener = await listen(Address("127.0.0.1", 0), Gate(handler, lambda: 1, observe=exchanges.append))
    try:
        yield Doorway(handler, listener.url, exchanges)
    finally:
        await listener.close()


async def test_who_finds_no_place_is_told_so_whatever_is_ready(doorway: Doorway, image: Image) -> None:
    """A ready answer is for those inside: one over the limit gets its 503 and is closed."""
    async with ClientSession() as inside, ClientSession() as outside:
        for _ in range(4):
            assert await doorway.ask(inside) == (200, None, image.manifest.data)
        assert (await doorway.ask(outside))[:2] == (503, "close")
        assert await doorway.ask(inside) == (200, None, image.manifest.data)
    assert [exchange.status for exchange in doorway.exchanges] == [200] * 4 + [503, 200]


async def test_a_ready_answer_of_a_draining_server_is_the_last_one(doorway: Doorway, image: Image) -> None:
    """It closes its connection, so that the client goes elsewhere."""
    async with ClientSession() as inside:
        for _ in range(4):
            assert await doorway.ask(inside) == (200, None, image.manifest.data)
        await doorway.handler.drained()
        assert await doorway.ask(inside) == (200, "close", image.manifest.data)


@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_a_ready_answer_to_head_has_no_body(proxy: Proxy, image: Image, by: str) -> None:
    """Nothing stands between its head and the next answer's status line: it would be read as that."""
    target = f"/v2/{UPSTREAM}/{APP}/manifests/{'1' if by == 'tag' else image.digest}"
    methods = ["GET", *["HEAD"] * OFTEN, "GET"]
    bodies = await one_after_another(proxy.netloc, target, methods)
    assert bodies == [image.manifest.data, *[b""] * OFTEN, image.manifest.data]
    assert [exchange.sent for exchange in proxy.exchanges] == [len(body) for body in bodies]
