"""Many readers of one transfer: whenever they come, wherever they start, however slow they are, and when they leave."""

import asyncio
import random
from pathlib import Path

import pytest

from proxy.events import BlobStored
from tests.support.clock import Clock
from tests.support.images import Blob, blob
from tests.support.proxy import Proxy, proxied
from tests.support.registry import Registry
from tests.support.waiting import turns

MIB = 1 << 20
REPOSITORY = "team/app"


@pytest.fixture
def big(registry: Registry) -> Blob:
    """A blob of 5 MiB and a bit, in the upstream."""
    return registry.add_blob(REPOSITORY, blob(5 * MIB + 12_345))


async def test_a_cold_blob_flows_before_the_upstream_has_sent_it_all(
    proxy: Proxy, registry: Registry, big: Blob
) -> None:
    """The first client reads bytes while the rest of the blob is still upstream."""
    gate = registry.hold(big.digest, after_bytes=2 * MIB)
    pulling = await proxy.start_pull(big)
    assert await pulling.read(2 * MIB) == big.data[: 2 * MIB]
    assert pulling.headers["Content-Length"] == str(big.size)
    assert pulling.headers["Cache-Status"].endswith("; fwd=miss; stored")
    gate.open()
    assert await pulling.rest() == big.data


async def test_a_crowd_costs_one_transfer(proxy: Proxy, registry: Registry, big: Blob) -> None:
    """Fifty clients, each from the start or from an offset of its own, cost one upstream request of the blob's size."""
    gate = registry.hold(big.digest, after_bytes=MIB)
    rng = random.Random(7)
    starts = [0] * 25 + [rng.randrange(big.size) for _ in range(25)]
    pulls = [await proxy.start_pull(big, **({"Range": f"bytes={start}-"} if start else {})) for start in starts]
    await gate.reached()
    gate.open()
    for start, pulling in zip(starts, pulls, strict=True):
        assert await pulling.rest() == big.data[start:]
        assert pulling.status == (206 if start else 200)
    assert registry.requests_for(big.digest) == 1
    assert registry.bytes_for(big.digest) == big.size
    assert registry.requests_for(big.digest, "HEAD") == 0


async def test_a_leaving_client_does_not_end_the_download(proxy: Proxy, registry: Registry, big: Blob) -> None:
    """The second client still gets the whole blob, from one upstream request."""
    gate = registry.hold(big.digest, after_bytes=MIB)
    first, second = await proxy.start_pull(big), await proxy.start_pull(big)
    await gate.reached()
    await first.read(1000)
    await first.leave()
    gate.open()
    assert await second.rest() == big.data
    assert registry.requests_for(big.digest) == 1


async def test_a_download_that_nobody_reads_goes_to_its_end(proxy: Proxy, registry: Registry, big: Blob) -> None:
    """With every client gone the blob is stored all the same, and the next pull is local."""
    proxy.hear(BlobStored)
    gate = registry.hold(big.digest, after_bytes=MIB)
    pulling = await proxy.start_pull(big)
    await pulling.read(10)
    await pulling.leave()
    await gate.reached()
    gate.open()
    await proxy.quiet()
    assert proxy.stored(big.digest) == big.data
    assert [type(event) for event in proxy.heard] == [BlobStored]
    again = await proxy.pull(big)
    assert again.body == big.data
    assert again.headers["Cache-Status"].endswith("; hit")
    assert registry.requests_for(big.digest) == 1


async def test_a_slow_reader_holds_up_nobody(proxy: Proxy, registry: Registry, big: Blob) -> None:
    """A client that reads nothing delays neither the transfer nor the others, and gets its bytes in the end."""
    slow = await proxy.start_pull(big)
    assert (await proxy.pull(big)).body == big.data
    await proxy.quiet()
    assert proxy.stored(big.digest) == big.data
    assert await slow.rest() == big.data
    assert registry.requests_for(big.digest) == 1


async def test_parallel_open_ended_ranges_of_a_cold_blob(proxy: Proxy, registry: Registry, big: Blob) -> None:
    """As containerd 2.1 pulls: open-ended ranges at once, each read for one piece and then cut short; one transfer."""
    gate = registry.hold(big.digest, after_bytes=1000)
    offsets = range(0, big.size, MIB)
    pulls = [await proxy.start_pull(big, Range=f"bytes={offset}-") for offset in offsets]
    await gate.reached()
    gate.open()
    got = b""
    for pulling in pulls:
        got += await pulling.read(min(MIB, big.size - len(got)))
        assert pulling.status == 206
        await pulling.leave()
    assert got == big.data
    await proxy.quiet()
    assert registry.requests_for(big.digest) == 1
    assert proxy.stored(big.digest) == big.data


async def test_the_last_bytes_wait_for_the_digest(proxy: Proxy, registry: Registry, big: Blob) -> None:
    """64 KiB are held back until the whole blob has been hashed; all before them flows."""
    gate = registry.hold(big.digest, after_bytes=big.size - 1)
    pulling = await proxy.start_pull(big)
    await pulling.read(big.size - 65536)
    await gate.reached()
    late = asyncio.ensure_future(pulling.read(1))
    await turns(100)
    assert not late.done()
    gate.open()
    assert await late == big.data[-65536:][:1]
    assert await pulling.rest() == big.data


async def test_a_joiner_at_every_moment(proxy: Proxy, registry: Registry) -> None:
    """Clients that join at each sixteenth of the body all read it whole, from one request."""
    wanted = registry.add_blob(REPOSITORY, blob(4 * MIB, seed=3))
    gates = [registry.hold(wanted.digest, after_bytes=wanted.size * part // 16) for part in range(1)]
    pulls = [await proxy.start_pull(wanted)]
    await gates[0].reached()
    gates[0].open()
    for part in range(1, 16):
        await pulls[0].read(wanted.size * part // 16 - len(pulls[0].body))
        pulls.append(await proxy.start_pull(wanted))
    assert [await pulling.rest() for pulling in pulls] == [wanted.data] * 16
    assert registry.requests_for(wanted.digest) == 1


async def test_stopping_ends_every_reader(cache_dir: Path, registry: Registry, clock: Clock, big: Blob) -> None:
    """A server that stops in mid-transfer drops its clients' connections, and nobody takes a short body for whole."""
    async with proxied(cache_dir, registry, clock) as proxy:
        gate = registry.hold(big.digest, after_bytes=MIB)
        pulling = await proxy.start_pull(big)
        await pulling.read(1000)
        await gate.reached()
    with pytest.raises(ConnectionError, match="ended after"):
        await pulling.rest()
    registry.heal()
    async with proxied(cache_dir, registry, clock) as proxy:
        assert (await proxy.pull(big)).body == big.data


async def test_a_kept_part_is_resumed_by_the_next_process(
    cache_dir: Path, registry: Registry, clock: Clock, big: Blob
) -> None:
    """What an ended server had received is not fetched again: the next one asks from there on."""
    gate = registry.hold(big.digest, after_bytes=3 * MIB)
    async with proxied(cache_dir, registry, clock) as proxy:
        pulling = await proxy.start_pull(big)
        await pulling.read(3 * MIB)
        await gate.reached()
        await pulling.leave()
    registry.heal()
    registry.forget()
    async with proxied(cache_dir, registry, clock) as proxy:
        assert (await proxy.pull(big)).body == big.data
        await proxy.quiet()
        assert proxy.stored(big.digest) == big.data
    (resumed,) = registry.recorded(big.digest)
    assert resumed.headers["Range"] == f"bytes={3 * MIB - 1}-"
    assert registry.bytes_for(big.digest) == big.size - 3 * MIB + 1
