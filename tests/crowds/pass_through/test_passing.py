"""Bodies that cannot be kept: they pass by from memory, verified, and say why."""

import asyncio
from pathlib import Path

import pytest

from proxy.downloads.ring import RING_MIN
from proxy.errors import Denied, NotKept
from proxy.events import IntegrityFailed, TransferResumed
from proxy.ledger import Claim
from tests.support import script
from tests.support.blocks import blocks_under
from tests.support.clock import Clock
from tests.support.images import blob, manifest
from tests.support.passing import REPOSITORY, readers, reasons
from tests.support.proxy import Proxy, config_text, running
from tests.support.registry import Registry

MIB = 1 << 20


@pytest.fixture
def hopeless(proxy: Proxy, full: Claim, monkeypatch: pytest.MonkeyPatch) -> Claim:
    """Nobody waits for room: it is known that none comes."""

    async def wait(size: int) -> Claim:
        raise NotKept("no_room", "there is none")

    monkeypatch.setattr(proxy.rooms.capacity, "wait", wait)
    return full


@pytest.mark.parametrize("size", [0, 1, 1000, 65536, 65537, 3 * MIB, 9 * MIB + 5], ids=str)
@pytest.mark.usefixtures("hopeless")
async def test_one_client_gets_every_byte(proxy: Proxy, registry: Registry, size: int) -> None:
    """From one request upstream; Cache-Status, the log and an event say why it was not kept, and nothing is."""
    wanted = registry.add_blob(REPOSITORY, blob(size))
    answer = await proxy.pull(wanted)
    assert (answer.status, answer.body) == (200, wanted.data)
    await proxy.quiet()
    assert registry.requests_for(wanted.digest) == 1
    assert proxy.stored(wanted.digest) is None
    assert list(proxy.rooms.disk.parts.iterdir()) == []
    assert reasons(proxy) == {"no_room"}
    assert proxy.exchanges[-1].line()["not_kept"] in ("making_room", "no_room")
    assert answer.headers["Cache-Status"].endswith(("; detail=making_room", "; detail=no_room"))


@pytest.mark.usefixtures("hopeless")
async def test_the_smallest_ring_finds_room_for_the_end(
    proxy: Proxy, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hundreds of bodies going by each ring is small; one that comes in large pieces still gets to its end, though
    its readers wait for the digest in the last but one.
    """
    monkeypatch.setattr("proxy.downloads.unkept.ring_size", lambda _running: RING_MIN)
    monkeypatch.setattr("proxy.upstream.intake.LEAST", 1)
    wanted = registry.add_blob(REPOSITORY, blob(2 * MIB))
    gate = registry.hold(wanted.digest, after_bytes=2 * MIB - 1000)
    pulls = [await proxy.start_pull(wanted) for _ in range(2)]
    assert [len(await pulling.read(2 * MIB - 65536)) for pulling in pulls] == [2 * MIB - 65536] * 2
    gate.open()
    async with asyncio.timeout(20):
        assert [await pulling.rest() for pulling in pulls] == [wanted.data] * 2


@pytest.mark.usefixtures("hopeless")
async def test_clients_that_come_together_share_one_transfer(proxy: Proxy, registry: Registry) -> None:
    """A crowd that keeps step costs the upstream one body."""
    wanted = registry.add_blob(REPOSITORY, blob(12 * MIB))
    gate = registry.hold(wanted.digest, after_bytes=100_000)
    pulls = [await proxy.start_pull(wanted) for _ in range(20)]
    await gate.reached()
    await readers(proxy, len(pulls))
    gate.open()
    bodies = await asyncio.gather(*(pulling.rest() for pulling in pulls))
    assert bodies == [wanted.data] * len(pulls)
    await proxy.quiet()
    assert registry.requests_for(wanted.digest) == 1


@pytest.mark.usefixtures("hopeless")
async def test_ranges_are_served_as_the_body_goes_by(proxy: Proxy, registry: Registry) -> None:
    """Eight ranges of one cold body cost one transfer; each is exact, the last one only once the digest is known."""
    wanted = registry.add_blob(REPOSITORY, blob(8 * MIB))
    step = wanted.size // 8
    spans = [(at, at + step) for at in range(0, wanted.size, step)]
    gate = registry.hold(wanted.digest, after_bytes=1000)
    pulls = [await proxy.start_pull(wanted, Range=f"bytes={start}-{stop - 1}") for start, stop in spans]
    await gate.reached()
    await readers(proxy, len(pulls))
    gate.open()
    bodies = await asyncio.gather(*(pulling.rest() for pulling in pulls))
    assert bodies == [wanted.data[start:stop] for start, stop in spans]
    assert registry.requests_for(wanted.digest) == 1


@pytest.mark.usefixtures("hopeless")
async def test_a_client_that_falls_behind_goes_on_by_itself(proxy: Proxy, registry: Registry) -> None:
    """One that stops reading holds up the other for a moment only; it gets the rest by a range of its own."""
    wanted = registry.add_blob(REPOSITORY, blob(24 * MIB))
    slow = await proxy.start("/v2/origin.test/team/app/blobs/" + str(wanted.digest))
    slow.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport can
    first = registry.hold(wanted.digest, after_bytes=50_000, times=1)
    fast = await proxy.start_pull(wanted)
    first.open()
    async with asyncio.timeout(30):
        assert await fast.rest() == wanted.data
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above
        assert await slow.rest() == wanted.data
    ranges = [request.headers.get("Range") for request in registry.recorded(wanted.digest)]
    assert len(ranges) >= 2


@pytest.mark.usefixtures("hopeless")
async def test_who_comes_too_late_begins_the_next_one(proxy: Proxy, registry: Registry) -> None:
    """When the beginning has gone by, the next client's transfer is another one; both end whole."""
    wanted = registry.add_blob(REPOSITORY, blob(20 * MIB))
    gate = registry.hold(wanted.digest, after_bytes=19 * MIB, times=1)
    early = await proxy.start_pull(wanted)
    read = await early.read(15 * MIB)
    await gate.reached()
    late = await proxy.pull(wanted)
    gate.open()
    rest = await early.rest()
    assert late.body == wanted.data
    assert read in rest
    assert rest == wanted.data
    assert registry.requests_for(wanted.digest) == 2


@pytest.mark.parametrize("size", [1000, 5 * MIB], ids=["small", "large"])
@pytest.mark.usefixtures("hopeless")
async def test_a_wrong_body_never_completes(proxy: Proxy, registry: Registry, size: int) -> None:
    """A small one is a true 502; a large one ends short of its length: the end waits for the digest."""
    wanted = registry.add_blob(REPOSITORY, blob(size))
    registry.script(wanted.digest, script.spoil(size // 2))
    pulling = await proxy.start_pull(wanted)
    if size <= 65536:
        assert await pulling.head() == 502
        await pulling.rest()
    else:
        with pytest.raises(ConnectionError):
            await pulling.rest()
        assert len(pulling.body) <= size - 65536
    await proxy.quiet()
    assert any(isinstance(event, IntegrityFailed) for event in proxy.heard)


@pytest.mark.usefixtures("hopeless")
async def test_a_cut_upstream_is_asked_for_the_rest(proxy: Proxy, registry: Registry) -> None:
    """The client notices nothing, and no byte comes twice."""
    wanted = registry.add_blob(REPOSITORY, blob(6 * MIB))
    registry.script(wanted.digest, script.cut(2 * MIB + 77), times=1)
    assert (await proxy.pull(wanted)).body == wanted.data
    assert any(isinstance(event, TransferResumed) for event in proxy.heard)
    assert registry.requests_for(wanted.digest) == 2


@pytest.mark.usefixtures("hopeless")
async def test_what_is_forbidden_ends_at_once(proxy: Proxy, registry: Registry) -> None:
    """A digest that is blocked while it goes by is dropped at every client, and nobody is told another reason."""
    wanted = registry.add_blob(REPOSITORY, blob(8 * MIB))
    gate = registry.hold(wanted.digest, after_bytes=MIB)
    pulls = [await proxy.start_pull(wanted) for _ in range(3)]
    for pulling in pulls:
        await pulling.read(1000)
    await gate.reached()
    proxy.rooms.downloads.forbid(wanted.digest, Denied("it is on the block list"))
    for pulling in pulls:
        with pytest.raises(ConnectionError):
            await pulling.rest()
    await proxy.quiet()
    assert proxy.stored(wanted.digest) is None


@pytest.mark.usefixtures("hopeless")
async def test_nobody_left_ends_it(proxy: Proxy, registry: Registry) -> None:
    """What nobody reads and nobody keeps is not fetched to its end."""
    wanted = registry.add_blob(REPOSITORY, blob(30 * MIB))
    gate = registry.hold(wanted.digest, after_bytes=MIB)
    pulling = await proxy.start_pull(wanted)
    await pulling.read(1000)
    await gate.reached()
    await pulling.leave()
    await proxy.quiet()
    gate.open()
    assert registry.bytes_for(wanted.digest) < 30 * MIB


@pytest.mark.parametrize("named", [True, False], ids=["named by a manifest", "asked for by itself"])
async def test_a_body_larger_than_the_cache_streams(
    cache_dir: Path, registry: Registry, clock: Clock, named: bool
) -> None:
    """max_size smaller than one blob: served, not kept, and nothing is evicted for it; the answer's head says so."""
    small, large = blob(300_000, seed=1), blob(3 * MIB, seed=2)
    image = registry.add(REPOSITORY, "1", manifest(small, large) if named else manifest(small))
    registry.add_blob(REPOSITORY, large)
    text = config_text(cache_dir, registry, "hydrate: {image: none}\n")
    async with running(text.replace("cache: {", "cache: {max_size: 2MiB, keep_free: 0B, "), clock) as proxy:
        assert (await proxy.ask(f"{REPOSITORY}/manifests/1")).status == 200
        assert (await proxy.pull(small)).body == small.data
        answer = await proxy.pull(large)
        assert answer.body == large.data
        assert answer.headers["Cache-Status"].endswith("fwd=miss; detail=too_large")
        await proxy.quiet()
        assert proxy.stored(small.digest) == small.data
        assert proxy.stored(image.digest) is not None
        assert blocks_under(cache_dir) <= 2 * MIB
