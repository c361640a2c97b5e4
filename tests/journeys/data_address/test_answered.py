"""What is answered at the data address: as at the registry's, for as long as it is signed and allowed."""

import asyncio

import pytest

from proxy.outcome import Result
from proxy.serve import drain
from proxy.signing import STEP_S, VALID_S
from tests.support import images
from tests.support.clock import Clock
from tests.support.images import Image
from tests.support.redirecting import APP, HUB, Site, text
from tests.support.registry import Registry
from tests.support.waiting import until
from tests.support.wire import Gate

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


# What is told of it, and how it ends


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
    await until(lambda: site.server.edge.registry.draining)
    assert (await site.data.ask(later)).body == second.data
    gate.open()
    assert await pulling.rest() == large.data
    await draining
    for address in (site.front, site.data):
        with pytest.raises(ConnectionRefusedError):
            await address.ask("/-/live")


async def test_who_takes_nothing_at_one_address_keeps_no_other_open(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that waits for its client is waited for once nobody is let in any more, at either address."""
    gate = Gate()
    monkeypatch.setattr(site.server.edge.clients, "flushed", gate.stand)
    draining = asyncio.ensure_future(drain(site.server.edge, 30.0))
    await gate.reached()
    assert all(door.draining for door in site.server.edge.doors)
    for address in (site.front, site.data):
        with pytest.raises(ConnectionRefusedError):
            await address.ask("/-/live")
    gate.open()
    await draining
