"""Bodies that could not be kept at first, and are kept if room comes in time."""

from pathlib import Path

import pytest

from proxy.errors import Denied
from proxy.ledger import Claim
from tests.support.blocks import blocks_under
from tests.support.clock import Clock
from tests.support.images import blob
from tests.support.passing import REPOSITORY, reasons
from tests.support.proxy import Proxy, config_text, running
from tests.support.registry import Registry
from tests.support.waiting import settled, until

MIB = 1 << 20


async def test_room_that_comes_in_time_lets_it_be_kept(proxy: Proxy, registry: Registry, full: Claim) -> None:
    """The client streams at once; what it was given from memory is put into a part, and the blob is kept whole."""
    wanted = registry.add_blob(REPOSITORY, blob(7 * MIB))
    gate = registry.hold(wanted.digest, after_bytes=MIB, times=1)
    async with proxy.rooms.evict.turn():  # the round that was called for stands still
        pulling = await proxy.start_pull(wanted)
        await pulling.read(500_000)  # before there is room: nobody waited for it
        full.release()
        await proxy.rooms.capacity.made()
        gate.open()
    assert await pulling.rest() == wanted.data
    await proxy.quiet()
    assert proxy.stored(wanted.digest) == wanted.data
    assert reasons(proxy) == set()


@pytest.mark.parametrize("end", ["client leaves", "forbidden"])
async def test_room_that_comes_too_late_is_given_back(proxy: Proxy, registry: Registry, full: Claim, end: str) -> None:
    """Room that was found for a body which ends before it could be used is nobody's: no claim outlives its transfer."""
    wanted = registry.add_blob(REPOSITORY, blob(7 * MIB))
    gate = registry.hold(wanted.digest, after_bytes=MIB, times=1)
    async with proxy.rooms.evict.turn():  # the round that was called for stands still
        pulling = await proxy.start_pull(wanted)
        await pulling.read(500_000)
        await gate.reached()
        full.release()
        await proxy.rooms.capacity.made()
        await until(lambda: proxy.rooms.capacity.ledger.claims)
        if end == "forbidden":
            proxy.rooms.downloads.forbid(wanted.digest, Denied("it is on the block list"))
        if end == "client leaves":
            await pulling.leave()
        else:
            gate.open()
            with pytest.raises(ConnectionError):
                await pulling.rest()
    await proxy.quiet()
    await settled()
    assert proxy.rooms.capacity.ledger.claims == set()
    assert proxy.rooms.capacity._filled == set()


async def test_what_was_kept_after_all_is_no_part_any_more(proxy: Proxy, registry: Registry, full: Claim) -> None:
    """A part that came from memory is counted, once it has its name, as what it is."""
    wanted = registry.add_blob(REPOSITORY, blob(200_000))
    async with proxy.rooms.evict.turn():
        await proxy.pull(wanted)
        full.release()
        await proxy.rooms.capacity.made()
    await proxy.quiet()
    assert proxy.stored(wanted.digest) == wanted.data
    assert proxy.rooms.capacity._filled == set()
    assert proxy.rooms.capacity.ledger.claims == set()


async def test_a_body_smaller_than_the_ring_is_kept_after_it_went_by(
    proxy: Proxy, registry: Registry, full: Claim
) -> None:
    """It is verified already: it only has to be written."""
    wanted = registry.add_blob(REPOSITORY, blob(200_000))
    async with proxy.rooms.evict.turn():  # the round that was called for stands still
        assert (await proxy.pull(wanted)).body == wanted.data
        full.release()
        await proxy.rooms.capacity.made()
    await proxy.quiet()
    assert proxy.stored(wanted.digest) == wanted.data
    assert registry.requests_for(wanted.digest) == 1


async def test_a_part_left_behind_is_booked_and_taken_up(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """A transfer that broke off leaves its part in the book; the next one goes on from it, and the book agrees."""
    wanted = registry.add_blob(REPOSITORY, blob(3 * MIB))
    async with running(config_text(cache_dir, registry), clock) as proxy:
        gate = registry.hold(wanted.digest, after_bytes=2 * MIB)
        pulling = await proxy.start_pull(wanted)
        await gate.reached()
        await pulling.read(MIB)
        await registry.stop()
        with pytest.raises(ConnectionError):
            await pulling.rest()
        await proxy.quiet()
        ledger = proxy.rooms.capacity.ledger
        assert ledger.parts > MIB
        assert ledger.claims == set()
        registry.heal()
        await registry.start()
        assert (await proxy.pull(wanted)).body == wanted.data
        await proxy.quiet()
        assert ledger.parts == 0
        await proxy.rooms.capacity.look()
        assert ledger.taken == blocks_under(cache_dir)
