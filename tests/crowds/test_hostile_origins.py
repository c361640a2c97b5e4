"""Origins that lie about a blob beside origins that do not: who else is hurt, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxy.downloads.transfer import Origin
from proxy.errors import BlobUnknown
from proxy.events import IntegrityFailed
from proxy.rules import Place, Source
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob, blob
from tests.support.proxy import UPSTREAM, Proxy, proxied
from tests.support.registry import Registry
from tests.support.waiting import until
from tests.support.wire import Answer, Gate

MIB = 1 << 20


@pytest.fixture
async def proxy(cache_dir: Path, registry: Registry, clock: Clock) -> AsyncIterator[Proxy]:
    """A proxy that waits for a stalled upstream no longer than a moment."""
    timeouts = {"connect": "1s", "headers": "1s", "stall": "500ms"}
    async with proxied(cache_dir, registry, clock, timeouts=timeouts) as running:
        yield running


@pytest.fixture
def wanted(registry: Registry) -> Blob:
    """A blob that team/good and team/evil hold."""
    registry.add_blob("team/none", blob(10))
    registry.add_blob("team/evil", blob(2 * MIB))
    return registry.add_blob("team/good", blob(2 * MIB))


async def joined(proxy: Proxy, readers: int) -> None:
    await until(lambda: proxy.rooms.downloads.readers >= readers)


async def test_a_blob_stored_meanwhile_is_not_shown_to_a_place_that_lacks_it(
    proxy: Proxy, registry: Registry, wanted: Blob
) -> None:
    """Another place's transfer may end between a miss and its transfer: what it stored is shown only after proof."""
    await proxy.pull(wanted, "team/good")
    await proxy.quiet()
    lacking = proxy.rooms.downloads.join(wanted.digest, Origin(Source(UPSTREAM, "team/none")))
    with pytest.raises(BlobUnknown):
        await lacking.opened()
    lacking.close()
    await proxy.quiet()
    holding = proxy.rooms.downloads.join(wanted.digest, Origin(Source(UPSTREAM, "team/evil")))
    assert await holding.opened() == wanted.size
    holding.close()
    await proxy.quiet()
    assert await proxy.rooms.disk.records.link(Place(UPSTREAM, "team/none"), wanted.digest) is None
    assert await proxy.rooms.disk.records.link(Place(UPSTREAM, "team/evil"), wanted.digest) is not None
    holders = [f"/v2/{name}/blobs/{wanted.digest}" for name in ("team/good", "team/evil")]
    assert sum(map(registry.requests_for, holders)) == 1


async def test_who_cuts_and_then_lies_is_not_asked_for_ever(proxy: Proxy, registry: Registry, wanted: Blob) -> None:
    """A wrong digest after a splice costs one fetch from zero, and no third one however the second is spliced."""

    def cut_then_lie(answer: Answer) -> Answer:
        return script.cut(MIB)(answer) if answer.status == 200 else script.spoil(0)(answer)

    proxy.hear(IntegrityFailed)
    registry.script(wanted.digest, cut_then_lie)
    with pytest.raises(ConnectionError):
        await proxy.pull(wanted, "team/good")
    async with asyncio.timeout(10):
        await proxy.quiet()
    assert registry.requests_for(wanted.digest) == 4
    assert len(proxy.heard) == 2
    assert proxy.stored(wanted.digest) is None


@pytest.mark.parametrize("told", [1000, MIB, 3 * MIB], ids=["small", "shorter", "longer"])
async def test_a_size_that_a_liar_told_binds_nobody_else(
    proxy: Proxy, registry: Registry, wanted: Blob, told: int
) -> None:
    """The honest origin that takes over tells its own size: it is believed, stored, and served to who comes next."""
    gate = Gate()

    def lie(answer: Answer) -> Answer:
        return replace(script.gate(gate, 500)(answer), body=bytes(told))

    registry.script(f"/v2/team/evil/blobs/{wanted.digest}", lie)
    evil = await proxy.start_pull(wanted, "team/evil")
    await gate.reached()
    honest = await proxy.start_pull(wanted, "team/good")
    await joined(proxy, 2)
    gate.open()
    (result, refused) = await asyncio.gather(honest.rest(), evil.rest(), return_exceptions=True)
    assert isinstance(refused, ConnectionError) or evil.status == 502
    # Its headers may have left with the lie's length: then the body must not complete.
    assert isinstance(result, ConnectionError) or result == wanted.data
    if told == 1000:
        assert result == wanted.data
    await proxy.quiet()
    assert proxy.stored(wanted.digest) == wanted.data
    assert (await proxy.pull(wanted, "team/good")).body == wanted.data
    assert registry.requests_for(f"/v2/team/good/blobs/{wanted.digest}") == 1


async def test_a_size_told_by_who_then_went_away_binds_nobody_else(
    proxy: Proxy, registry: Registry, wanted: Blob
) -> None:
    """An origin that lied about the size and then failed is replaced by an honest one, which is not blamed for it."""
    gate, path = Gate(), f"/v2/team/evil/blobs/{wanted.digest}"
    registry.script(path, script.error(503))
    registry.script(path, script.gate(gate, 500), script.cut(500), script.declare(3 * MIB), times=1)
    evil = await proxy.start_pull(wanted, "team/evil")
    await gate.reached()
    honest = await proxy.start_pull(wanted, "team/good")
    await joined(proxy, 2)
    gate.open()
    results = await asyncio.gather(honest.rest(), evil.rest(), return_exceptions=True)
    assert all(isinstance(result, ConnectionError) for result in results)  # both had been told the wrong length
    await proxy.quiet()
    assert proxy.stored(wanted.digest) == wanted.data
    assert (await proxy.pull(wanted, "team/good")).body == wanted.data


@pytest.mark.parametrize("status", [429, 503])
async def test_a_long_retry_after_holds_no_client(proxy: Proxy, registry: Registry, wanted: Blob, status: int) -> None:
    """An upstream that cuts and then asks to be left alone for an hour ends the transfer: nobody hangs on it."""
    registry.script(wanted.digest, script.error(status, Retry_After="3600"))
    registry.script(wanted.digest, script.cut(MIB), times=1)
    pulling = await proxy.start_pull(wanted, "team/good")
    async with asyncio.timeout(10):
        with pytest.raises(ConnectionError):
            await pulling.rest()
        await proxy.quiet()
    registry.heal()
    registry.forget()


async def test_a_refused_alternate_does_not_hurt_the_first(proxy: Proxy, registry: Registry, wanted: Blob) -> None:
    """A place that is denied is told so, and neither ends nor joins what another place's readers read."""
    gate = registry.hold(f"/v2/team/good/blobs/{wanted.digest}", after_bytes=MIB)
    first = await proxy.start_pull(wanted, "team/good")
    await gate.reached()
    registry.script(f"/v2/team/evil/blobs/{wanted.digest}", script.error(403, "DENIED"), methods=("GET", "HEAD"))
    assert (await proxy.pull(wanted, "team/evil")).status == 404  # anonymous: as if it were not there
    gate.open()
    assert await first.rest() == wanted.data
    await proxy.quiet()
    assert (await proxy.pull(wanted, "team/evil")).status == 404


async def test_a_size_told_late_is_held_to(proxy: Proxy, registry: Registry, wanted: Blob) -> None:
    """A blob of unknown size, cut, whose resume tells the size and ends short again, is resumed and not blamed."""

    def short(answer: Answer) -> Answer:
        if answer.status == 200:
            return script.cut(MIB)(script.chunked(answer))
        start = len(answer.whole) - len(answer.body)
        body = answer.body[:300_000]
        last = start + len(body) - 1
        return replace(answer, body=body).with_header("Content-Range", f"bytes {start}-{last}/{len(answer.whole)}")

    registry.script(wanted.digest, short)
    proxy.hear(IntegrityFailed)
    assert (await proxy.pull(wanted, "team/good")).body == wanted.data
    await proxy.quiet()
    assert proxy.heard == []
    assert registry.bytes_for(wanted.digest) == wanted.size


async def left_behind(proxy: Proxy, registry: Registry, left: Blob) -> Gate:
    """A transfer of `left` whose only client has gone before the upstream answered, while another client reads."""
    gate = registry.hold_headers(left.digest, times=1)
    leaving = await proxy.start_pull(left, "team/good")
    await gate.reached()
    leaving.vanish()
    await until(lambda: proxy.rooms.downloads.readers == 1)
    return gate


async def test_who_gives_way_does_not_ask_again_for_what_it_has(proxy: Proxy, registry: Registry, wanted: Blob) -> None:
    """A transfer behind clients that has received its last byte ends, and asks the upstream for nothing more."""
    busy = registry.hold(wanted.digest, after_bytes=MIB)
    reading = await proxy.start_pull(wanted, "team/good")
    await busy.reached()
    small = registry.add_blob("team/good", blob(30_000))
    (await left_behind(proxy, registry, small)).open()
    await until(lambda: proxy.stored(small.digest) is not None)
    assert registry.requests_for(small.digest) == 1
    busy.open()
    assert await reading.rest() == wanted.data
    await proxy.quiet()


async def test_who_cannot_go_on_by_range_does_not_give_way_twice(
    proxy: Proxy, registry: Registry, wanted: Blob
) -> None:
    """Where the upstream ignores Range, giving way means beginning from zero: once is enough."""
    left = registry.add_blob("team/good", blob(3 * MIB))
    busy = registry.hold(wanted.digest, after_bytes=MIB)
    reading = await proxy.start_pull(wanted, "team/good")
    await busy.reached()
    second = Gate()
    registry.script(left.digest, script.ignore_range, script.gate(second, 2 * MIB), times=1)
    first = await left_behind(proxy, registry, left)
    first.open()
    busy.open()
    assert await reading.rest() == wanted.data
    await second.reached()  # it went on when all was quiet
    another = registry.add_blob("team/good", blob(2 * MIB, seed=9))
    busy = registry.hold(another.digest, after_bytes=MIB)
    reading = await proxy.start_pull(another, "team/good")
    await busy.reached()
    second.open()
    await until(lambda: proxy.stored(left.digest) is not None)
    assert registry.requests_for(left.digest) == 2
    busy.open()
    assert await reading.rest() == another.data
    await proxy.quiet()
