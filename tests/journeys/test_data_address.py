"""Blobs by redirect: who is sent to the data address, what is answered there, and that nothing else is."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from proxy.exchange import Exchange
from proxy.outcome import Result
from proxy.serve import drain
from proxy.signing import STEP_S, VALID_S
from tests.support import images
from tests.support.clock import Clock
from tests.support.data import Asking, target_of
from tests.support.images import Blob, Image
from tests.support.proxy import Reply
from tests.support.registry import Registry
from tests.support.reloading import Reloading, reloading

HUB: Final = "hub.test"
APP: Final = f"/v2/{HUB}/team/app"
OVER: Final = 100_000
REDIRECT: Final = {"url": "http://data.example", "over": f"{OVER}B", "clients": ["127.0.0.0/8"]}
BLOBS: Final = {"redirect": REDIRECT, "listen": "127.0.0.1:0"}
NOBODY: Final = {"redirect": REDIRECT | {"clients": ["192.0.2.0/24"]}, "listen": "127.0.0.1:0"}


def text(registry: Registry, **sections: Any) -> str:
    upstream = {"endpoints": [{"url": registry.url}], "plain_http": True, "proxy": "none"}
    beside = {"registry": {"name": "cistern"}, "blobs": BLOBS, "hydrate": {"image": "none"}}
    return yaml.safe_dump({"upstreams": {HUB: upstream}, **beside, **sections})


@dataclass(slots=True)
class Site:
    """A server with a data address, and what its clients were answered."""

    server: Reloading
    registry: Registry
    front: Asking
    data: Asking
    exchanges: list[Exchange]

    async def signed(self, blob: Blob, path: str = APP) -> str:
        """A signed address of a blob, without its host."""
        return target_of(await self.front.ask(f"{path}/blobs/{blob.digest}"))

    async def warm(self, image: Image) -> None:
        """Pull an image's manifest, and its larger blobs by the data address."""
        assert (await self.front.ask(f"{APP}/manifests/1")).status == 200
        for blob in image.layers[:2]:
            assert (await self.data.ask(await self.signed(blob))).body == blob.data
        await self.server.rooms.downloads.idle()


@pytest.fixture
async def opened(short_tmp: Path, clock: Clock, registry: Registry) -> AsyncIterator[Any]:
    """Opens a site with these sections of configuration."""
    async with AsyncExitStack() as stack:

        async def open_site(**sections: Any) -> Site:
            server = await stack.enter_async_context(reloading(text(registry, **sections), short_tmp, clock))
            exchanges: list[Exchange] = []
            server.rooms.events.listen(Exchange, exchanges.append)
            assert server.edge.data is not None
            front, data = (one.url.removeprefix("http://") for one in (server.edge.clients, server.edge.data[1]))
            return Site(server, registry, Asking(front), Asking(data), exchanges)

        yield open_site


@pytest.fixture
async def site(opened: Any) -> Site:
    made: Site = await opened()
    return made


@pytest.fixture
def image(registry: Registry) -> Image:
    """Layers of 300 000 and 100 001 bytes, and one of just 100 000."""
    layers = (images.blob(300_000), images.blob(OVER + 1, seed=2), images.blob(OVER, seed=3))
    return registry.add("team/app", "1", images.manifest(*layers))


# Who is sent where


async def test_a_cold_blob_comes_by_the_data_address(site: Site, registry: Registry, image: Image) -> None:
    """Its size is known from the manifest; it is fetched once, and the second time it is here."""
    await site.front.ask(f"{APP}/manifests/1")
    large = image.layers[0]
    for cache_status in ("cistern; fwd=miss; stored", "cistern; hit"):
        moved = await site.front.ask(f"{APP}/blobs/{large.digest}")
        assert moved.headers["Location"].startswith(f"http://data.example{APP}/blobs/{large.digest}?expires=")
        assert moved.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
        assert (moved.headers["Cache-Status"], moved.body) == ("cistern; detail=redirected", b"")
        reply = await site.data.ask(target_of(moved))
        assert (reply.status, reply.body, reply.headers["Cache-Status"]) == (200, large.data, cache_status)
        assert reply.headers["Docker-Content-Digest"] == str(large.digest)
        await site.server.rooms.downloads.idle()
    assert registry.requests_for(large.digest) == 1


async def test_only_what_is_larger_is_left_to_the_data_address(site: Site, image: Image) -> None:
    """`over` itself is not over; cold or here makes no difference."""
    await site.front.ask(f"{APP}/manifests/1")
    for _ in range(2):
        answers = [await site.front.ask(f"{APP}/blobs/{layer.digest}") for layer in image.layers]
        assert [answer.status for answer in answers] == [307, 307, 200]
        for layer, answer in zip(image.layers[:2], answers, strict=False):
            assert (await site.data.ask(target_of(answer))).body == layer.data
        await site.server.rooms.downloads.idle()


async def test_a_blob_of_unknown_size_is_sent_from_here(site: Site, registry: Registry) -> None:
    """Nobody is asked for a size: a blob that no manifest has named comes at once; once it is here, by redirect."""
    lone = registry.add_blob("team/app", images.blob(300_000, seed=9))
    assert (await site.front.ask(f"{APP}/blobs/{lone.digest}")).body == lone.data
    await site.server.rooms.downloads.idle()
    assert (await site.data.ask(await site.signed(lone))).body == lone.data
    assert registry.requests_for(lone.digest) == 1


async def test_a_head_and_a_manifest_are_never_redirected(site: Site, image: Image) -> None:
    """Clients follow neither well (protocol B24)."""
    await site.warm(image)
    head = await site.front.ask(f"{APP}/blobs/{image.layers[0].digest}", method="HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, "300000")
    assert (await site.front.ask(f"{APP}/manifests/1", method="HEAD")).status == 200


async def test_only_clients_of_the_networks_are_sent_there(opened: Any, image: Image) -> None:
    """All others get the bytes where they asked."""
    site = await opened(blobs=NOBODY)
    await site.front.ask(f"{APP}/manifests/1")
    for _ in range(2):
        assert (await site.front.ask(f"{APP}/blobs/{image.layers[0].digest}")).body == image.layers[0].data
        await site.server.rooms.downloads.idle()


async def test_a_rule_may_keep_its_blobs_here(opened: Any, image: Image) -> None:
    """By a rule's own word, for its own path as for the upstream's."""
    rule = {"name": "own", "repository": "own/*", "upstream": f"{HUB}/team/*", "blobs": {"redirect": "none"}}
    site = await opened(rules=[rule])
    for path in ("/v2/own/app", APP):
        await site.front.ask(f"{path}/manifests/1")
        assert (await site.front.ask(f"{path}/blobs/{image.layers[0].digest}")).status == 200


async def test_a_range_outside_any_blob_is_answered_at_once(site: Site, image: Image) -> None:
    """A redirect would only make it a longer way to the same 416."""
    await site.front.ask(f"{APP}/manifests/1")
    reply = await site.front.ask(f"{APP}/blobs/{image.layers[0].digest}", Range="bytes=9-1")
    assert (reply.status, reply.headers["Content-Range"]) == (416, "bytes */300000")


@pytest.mark.parametrize(
    "path", [APP, "/v2/team/app", f"/{HUB}/v2/team/app", "/v2/own/app"], ids=["path", "ns", "prefix", "rule"]
)
async def test_every_form_of_a_name_is_signed_as_it_was_asked(opened: Any, image: Image, path: str) -> None:
    """The data address routes it as the registry address does, and echoes `ns`."""
    rule = {"name": "own", "repository": "own/*", "upstream": f"{HUB}/team/*"}
    site, ns = await opened(rules=[rule]), "?ns=hub.test" if path == "/v2/team/app" else ""
    await site.front.ask(f"{path}/manifests/1{ns}")
    moved = await site.front.ask(f"{path}/blobs/{image.layers[0].digest}{ns}")
    reply = await site.data.ask(target_of(moved))
    assert (reply.status, reply.body) == (200, image.layers[0].data)
    assert reply.headers.get("OCI-Namespace") == (HUB if ns else None)


# What is answered there


@pytest.mark.parametrize("is_held", [True, False], ids=["here", "filling"])
async def test_ranges_and_head_are_answered_as_at_the_registry_address(
    site: Site, registry: Registry, image: Image, is_held: bool
) -> None:
    """The same statuses, headers and bytes, whether the blob is here or on its way."""
    large = image.layers[0]
    await site.front.ask(f"{APP}/manifests/1")
    target = await site.signed(large)
    if is_held:
        await site.data.ask(target)
        await site.server.rooms.downloads.idle()
        running = None
    else:
        gate = registry.hold(large.digest, after_bytes=200_000)
        running = await site.data.start(target)
        await gate.reached()
    etag = f'"{large.digest}"'
    part = await site.data.ask(target, Range="bytes=100-199")
    assert (part.status, part.body) == (206, large.data[100:200])
    assert part.headers["Content-Range"] == "bytes 100-199/300000"
    assert (await site.data.ask(target, Range="bytes=0-9", If_Range=etag)).status == 206
    assert (await site.data.ask(target, If_None_Match=etag)).status == 304
    head = await site.data.ask(target, method="HEAD")
    assert (head.status, head.headers["Content-Length"], head.headers["ETag"]) == (200, "300000", etag)
    assert (await site.data.ask(target, Range="bytes=300000-")).status == 416
    if running is not None:
        gate.open()
        assert await running.rest() == large.data
    whole = await site.data.ask(target, Range="bytes=0-9", If_Range='"another"')
    assert (whole.status, whole.body) == (200, large.data)
    assert registry.requests_for(large.digest) == 1


async def test_many_clients_of_a_cold_blob_cost_one_fetch(site: Site, registry: Registry, image: Image) -> None:
    """The redirect leads to the same transfer; some come by the registry address, some by the data address."""
    large = image.layers[0]
    await site.front.ask(f"{APP}/manifests/1")
    gate = registry.hold(large.digest, after_bytes=1000)
    target = await site.signed(large)
    pulls = [await site.data.start(target) for _ in range(8)]
    await gate.reached()
    gate.open()
    assert [await pulling.rest() for pulling in pulls] == [large.data] * 8
    assert registry.requests_for(large.digest) == 1


async def test_an_answer_that_has_begun_outlives_its_address(
    site: Site, registry: Registry, image: Image, clock: Clock
) -> None:
    """The time is looked at when it begins; a range of the same address is refused later, and a new one is had."""
    large = image.layers[0]
    await site.front.ask(f"{APP}/manifests/1")
    gate = registry.hold(large.digest, after_bytes=1000)
    target = await site.signed(large)
    pulling = await site.data.start(target)
    await gate.reached()
    clock.advance(VALID_S + STEP_S)
    gate.open()
    assert await pulling.rest() == large.data
    late = await site.data.ask(target, Range="bytes=1000-")
    assert (late.status, late.code) == (403, "DENIED")
    assert b"expired" in late.body
    again = await site.data.ask(await site.signed(large), Range="bytes=1000-")
    assert (again.status, again.body) == (206, large.data[1000:])


async def test_what_was_evicted_after_it_was_signed_is_fetched_again(
    site: Site, registry: Registry, image: Image
) -> None:
    """An address is of the content, not of a file."""
    await site.warm(image)
    large = image.layers[0]
    target = await site.signed(large)
    await site.server.rooms.disk.blobs.delete(large.digest)
    assert (await site.data.ask(target)).body == large.data
    assert registry.requests_for(large.digest) == 2


async def test_what_was_blocked_after_it_was_signed_is_denied(site: Site, registry: Registry, image: Image) -> None:
    """At once: who asks then is told, and who is being sent it is cut; neither address signs it any more."""
    large = registry.add_blob("team/app", images.blob(24 << 20, seed=7))
    await site.front.ask(f"{APP}/blobs/{large.digest}")
    await site.server.rooms.downloads.idle()
    target = await site.signed(large)
    pulling = await site.data.start(target)
    await pulling.read(100_000)
    assert await site.server.take(text(registry, block=[str(large.digest)]))
    with pytest.raises(ConnectionError):
        await pulling.rest()
    assert (await site.data.ask(target)).code == "DENIED"
    assert (await site.front.ask(f"{APP}/blobs/{large.digest}")).status == 403


async def test_what_a_rule_denies_since_it_was_signed_is_denied(site: Site, registry: Registry, image: Image) -> None:
    """The rules of the moment count, not those it was signed under."""
    await site.warm(image)
    target = await site.signed(image.layers[0])
    rule = {"name": "no", "upstream": f"{HUB}/team/*", "deny": True}
    assert await site.server.take(text(registry, rules=[rule]))
    assert (await site.data.ask(target)).code == "DENIED"


# What is not


def flipped(target: str) -> str:
    """With the last digit of the signature changed."""
    return target[:-1] + ("0" if target[-1] != "0" else "1")


async def untouched(site: Site, target: str, **options: Any) -> Reply:
    """The answer to a request of which nobody behind the address hears."""
    before, opened = len(site.registry.requests), set(os.listdir(site.server.rooms.disk.directory.root / "parts"))
    reply = await site.data.ask(target, **options)
    await asyncio.sleep(0)
    assert len(site.registry.requests) == before
    assert set(os.listdir(site.server.rooms.disk.directory.root / "parts")) == opened
    return reply


async def test_nothing_is_here_for_who_was_not_sent(site: Site, image: Image) -> None:
    """No manifest, list or ping, and no blob without a signature, whether it is here or not."""
    await site.warm(image)
    blob = image.layers[0]
    paths = ("/v2/", f"{APP}/manifests/1", f"{APP}/tags/list", "/v2/_catalog", f"{APP}/blobs/{blob.digest}")
    for path in paths:
        for method in ("GET", "HEAD"):
            reply = await untouched(site, path, method=method)
            assert reply.status == 403
            assert method == "HEAD" or reply.code == "DENIED"
    assert (await untouched(site, f"{APP}/blobs/{blob.digest}", method="PUT")).code == "UNSUPPORTED"


async def test_a_forged_address_opens_nothing(site: Site, image: Image) -> None:
    """Another digest, repository, upstream or expiry under the same signature; the log names what was tried."""
    await site.warm(image)
    one, two, _ = image.layers
    target = await site.signed(one)
    forged = {
        "digest": target.replace(str(one.digest), str(two.digest)),
        "repository": target.replace("team/app", "team/other"),
        "upstream": target.replace(HUB, "other.test"),
        "signature": flipped(target),
        "namespace": f"{target}&ns={HUB}",
        "expires": target.replace("expires=1", "expires=2"),
        "expires twice": f"{target}&expires=1800000000",
        "prefix": f"/{HUB}{target}",
    }
    for name, tried in forged.items():
        assert tried != target, name
        reply = await untouched(site, tried)
        assert (reply.status, reply.code) == (403, "DENIED"), name
    assert site.exchanges[-1].status == 403
    assert site.exchanges[-1].id.startswith("data-")


TRICKS = {
    "dots": ("team/app", "team/app/../app", 400),
    "encoded dots": ("team/app", "team/app/%2e%2e/app", 400),
    "encoded slash": ("team/app", "team%2fapp", 400),
    "double slash": ("team/app", "team//app", 400),
    "double encoding": ("sha256:", "sha256%253A", 400),
    "backslash": ("team/app", "team\\app", 400),
    "a byte of zero": ("team/app", "team/app%00", 400),
    "upper case": ("team/app", "team/App", 400),
    "below the blob": ("?expires", "/../x?expires", 403),
    "a fragment": ("?expires", "#?expires", 403),
}


@pytest.mark.parametrize(("part", "other", "status"), TRICKS.values(), ids=TRICKS)
async def test_a_trick_with_the_path_opens_nothing(
    site: Site, image: Image, part: str, other: str, status: int
) -> None:
    """Paths are read by the grammar, once, and signed as they were read."""
    await site.warm(image)
    target = await site.signed(image.layers[0])
    assert part in target
    reply = await untouched(site, target.replace(part, other, 1))
    assert reply.status in (status, 400, 403, 404), reply
    assert image.layers[0].data not in reply.body


async def test_an_encoded_colon_is_the_same_address(site: Site, image: Image) -> None:
    """Clients encode it (protocol R17)."""
    await site.warm(image)
    target = await site.signed(image.layers[0])
    assert (await site.data.ask(target.replace("sha256:", "sha256%3A"))).body == image.layers[0].data


async def test_another_server_s_address_opens_nothing_unless_they_share_a_key(
    opened: Any, image: Image, short_tmp: Path
) -> None:
    """With one key in a file they agree; a new one signs at once, and what the old one signed is still good."""
    key = short_tmp / "key"
    key.write_text("a" * 40)
    site = await opened(blobs=BLOBS | {"key": {"file": str(key)}})
    await site.front.ask(f"{APP}/manifests/1")
    before = await site.signed(image.layers[0])
    key.write_text("b" * 40)
    assert await site.server.reload.reload()
    for _ in range(500):  # the key is read beside the requests, in a thread of its own
        if (after := await site.signed(image.layers[0])) != before:
            break
    assert after != before
    for target in (before, after):
        assert (await site.data.ask(target)).body == image.layers[0].data


async def test_it_is_all_in_the_log_and_the_metrics(site: Site, image: Image) -> None:
    """The redirect and what it led to, each under its own outcome."""
    await site.front.ask(f"{APP}/manifests/1")
    await site.data.ask(await site.signed(image.layers[0]))
    redirected, sent = site.exchanges[-2:]
    assert (redirected.result, redirected.status, redirected.sent) == (Result.REDIRECTED, 307, 0)
    assert (sent.result, sent.status, sent.sent, sent.rule) == (Result.MISS, 200, 300_000, HUB)
    assert await site.server.metric("cistern_requests_total", kind="blob", outcome="redirected", status="307") == 1.0
    assert await site.server.metric("cistern_requests_total", kind="blob", outcome="miss", status="200") == 1.0


async def test_probes_are_answered_at_both(site: Site) -> None:
    """For a load balancer before the data address."""
    for path, status in (("/-/live", 200), ("/-/ready", 200), (f"/-/rules/{HUB}", 200), ("/-/rules/none", 404)):
        assert (await site.data.ask(path)).status == status


async def test_a_drain_lets_who_was_sent_there_finish(site: Site, registry: Registry, image: Image) -> None:
    """The registry address closes first; who has an address still gets in, and all of it; then it is closed too."""
    large, second, _ = image.layers
    await site.front.ask(f"{APP}/manifests/1")
    target, later = await site.signed(large), await site.signed(second)
    gate = registry.hold(large.digest, after_bytes=1000)
    pulling = await site.data.start(target)
    await gate.reached()
    draining = asyncio.ensure_future(drain(site.server.edge, 30.0))
    while not site.server.edge.registry.draining:  # noqa: ASYNC110 - a step or two of the task above
        await asyncio.sleep(0)
    assert (await site.data.ask(later)).body == second.data
    gate.open()
    assert await pulling.rest() == large.data
    await draining
    for address in (site.front, site.data):
        with pytest.raises(ConnectionRefusedError):
            await address.ask("/-/live")


# A web server in front


async def test_a_web_server_is_told_the_file_of_a_whole_blob(site: Site, image: Image) -> None:
    """Below the place it names; what it could not answer as we do is sent from here."""
    await site.warm(image)
    large = image.layers[0]
    target = await site.signed(large)
    left = await site.data.ask(target, X_Accel_Below="/whole/")
    name = f"/whole/sha256/{large.digest.encoded[:2]}/{large.digest.encoded}"
    assert (left.status, left.body, left.headers["X-Accel-Redirect"]) == (200, b"", name)
    assert left.headers["ETag"] == f'"{large.digest}"'
    assert site.exchanges[-1].result is Result.REDIRECTED
    etag = f'"{large.digest}"'
    direct: list[dict[str, str]] = [
        {"If_Range": etag, "Range": "bytes=0-9"},
        {"Range": "bytes=0-1,4-5"},
        {"If_None_Match": '"x"'},
        {"X_Accel_Below": "whole"},
        {"X_Accel_Below": "/who\tle/"},
        {"X_Accel_Below": ""},
    ]
    for headers in direct:
        reply = await site.data.ask(target, **({"X_Accel_Below": "/whole/"} | headers))
        assert "X-Accel-Redirect" not in reply.headers, headers
        assert reply.status in (200, 206)
    assert (await site.data.ask(flipped(target), X_Accel_Below="/whole/")).status == 403


async def test_a_blob_on_its_way_is_never_left_to_a_web_server(site: Site, image: Image) -> None:
    """There is no whole file yet."""
    await site.front.ask(f"{APP}/manifests/1")
    large = image.layers[0]
    reply = await site.data.ask(await site.signed(large), X_Accel_Below="/whole/")
    assert hashlib.sha256(reply.body).hexdigest() == large.digest.encoded


async def test_a_suspect_blob_is_never_left_to_a_web_server(site: Site, registry: Registry, image: Image) -> None:
    """It is hashed again first, and a bad one is fetched again, as at the registry address."""
    await site.warm(image)
    large = image.layers[0]
    path = site.server.rooms.disk.blobs.path_of(large.digest)
    path.write_bytes(b"x" * large.size)
    target = await site.signed(large)
    reply = await site.data.ask(target, X_Accel_Below="/whole/")
    assert reply.body == large.data
    assert registry.requests_for(large.digest) == 2
