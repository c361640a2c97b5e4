"""An upstream that cuts, stalls and lies in mid-transfer, with one reader and with eight at different offsets.

What each fault ends with stands in tests/faults/rows.py; here is how: offsets, events, parts that are kept.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.events import IntegrityFailed, NotStored, TransferResumed
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob, blob
from tests.support.proxy import Proxy, proxied
from tests.support.pulling import Pulling
from tests.support.registry import Registry

MIB = 1 << 20
REPOSITORY = "team/app"
CROWDS = pytest.mark.parametrize("readers", [1, 8], ids=["one reader", "eight readers"])


@pytest.fixture
async def proxy(cache_dir: Path, registry: Registry, clock: Clock) -> AsyncIterator[Proxy]:
    """A proxy that waits for a stalled upstream no longer than a moment."""
    timeouts = {"connect": "1s", "headers": "1s", "stall": "200ms"}
    async with proxied(cache_dir, registry, clock, timeouts=timeouts) as running:
        running.hear(TransferResumed, IntegrityFailed, NotStored)
        yield running


@pytest.fixture
def wanted(registry: Registry) -> Blob:
    return registry.add_blob(REPOSITORY, blob(3 * MIB + 777))


async def crowd(proxy: Proxy, wanted: Blob, readers: int) -> list[Pulling]:
    """`readers` clients, the first from the start, the others from offsets spread over the blob."""
    starts = [wanted.size * part // readers for part in range(readers)]
    return [await proxy.start_pull(wanted, **({"Range": f"bytes={at}-"} if at else {})) for at in starts]


async def all_whole(pulls: list[Pulling], wanted: Blob) -> None:
    """Every client gets exactly its bytes."""
    bodies = await asyncio.gather(*(pulling.rest() for pulling in pulls))
    for part, body in enumerate(bodies):
        assert body == wanted.data[wanted.size * part // len(pulls) :]


@CROWDS
@pytest.mark.parametrize("cut_at", [1, 1000, MIB, 3 * MIB + 776], ids=str)
async def test_a_cut_is_resumed_at_the_exact_offset(
    proxy: Proxy, registry: Registry, wanted: Blob, cut_at: int, readers: int
) -> None:
    """A transfer cut in mid-body goes on by Range where it ended, and no client notices."""
    registry.script(wanted.digest, script.cut(cut_at), times=1)
    await all_whole(await crowd(proxy, wanted, readers), wanted)
    await proxy.quiet()
    first, second = registry.recorded(wanted.digest)
    assert "Range" not in first.headers
    assert second.headers["Range"] == f"bytes={cut_at}-"
    assert registry.bytes_for(wanted.digest) == wanted.size
    assert [type(event) for event in proxy.heard] == [TransferResumed]
    assert proxy.stored(wanted.digest) == wanted.data


@CROWDS
async def test_three_resumes_without_gain_end_it(proxy: Proxy, registry: Registry, wanted: Blob, readers: int) -> None:
    """Resumes that bring nothing are given up after three; the clients' connections drop, and the part is kept."""
    registry.script(wanted.digest, script.cut(0))
    registry.script(wanted.digest, script.cut(MIB), times=1)
    pulls = await crowd(proxy, wanted, readers)
    results = await asyncio.gather(*(pulling.rest() for pulling in pulls), return_exceptions=True)
    assert all(isinstance(result, ConnectionError | asyncio.IncompleteReadError) for result in results)
    assert registry.requests_for(wanted.digest) == 1 + 3
    await proxy.quiet()
    assert proxy.stored(wanted.digest) is None
    registry.heal()
    registry.forget()
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()
    assert registry.bytes_for(wanted.digest) == wanted.size - MIB + 1  # one byte more shows that it is held


@CROWDS
async def test_a_stall_is_ended_and_resumed(proxy: Proxy, registry: Registry, wanted: Blob, readers: int) -> None:
    """An upstream that falls silent in mid-body is left after `stall`, and asked to go on."""
    gate = registry.hold(wanted.digest, after_bytes=MIB, times=1)
    await all_whole(await crowd(proxy, wanted, readers), wanted)
    assert [request.headers.get("Range") for request in registry.recorded(wanted.digest)] == [None, f"bytes={MIB}-"]
    gate.open()


@CROWDS
async def test_a_drip_is_not_resumed_for_ever(proxy: Proxy, registry: Registry, wanted: Blob, readers: int) -> None:
    """An upstream that gives a few bytes and falls silent, each time: three answers, then the end (T02)."""
    gate = registry.hold(wanted.digest, after_bytes=100)
    pulls = await crowd(proxy, wanted, readers)
    results = await asyncio.gather(*(pulling.rest() for pulling in pulls), return_exceptions=True)
    assert all(isinstance(result, ConnectionError | asyncio.IncompleteReadError) for result in results)
    await proxy.quiet()
    assert registry.requests_for(wanted.digest) == 3
    gate.open()
    registry.heal()
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()


@CROWDS
@pytest.mark.parametrize("at", [0, MIB, -1], ids=["first byte", "middle", "last byte"])
async def test_a_wrong_digest_never_completes(
    proxy: Proxy, registry: Registry, wanted: Blob, at: int, readers: int
) -> None:
    """Bytes that do not hash to their digest end short of Content-Length at every client, and nothing is stored."""
    registry.script(wanted.digest, script.spoil(at), times=1)
    pulls = await crowd(proxy, wanted, readers)
    results = await asyncio.gather(*(pulling.rest() for pulling in pulls), return_exceptions=True)
    touching_the_end = [result for result in results if not isinstance(result, ConnectionError)]
    assert touching_the_end == []
    assert all(len(pulling.body) <= wanted.size - 65536 for pulling in pulls)
    await proxy.quiet()
    assert proxy.stored(wanted.digest) is None
    assert registry.requests_for(wanted.digest) == 1
    assert [type(event) for event in proxy.heard] == [IntegrityFailed, NotStored]
    assert (await proxy.pull(wanted)).body == wanted.data  # bad content is not remembered


async def test_a_small_wrong_blob_is_a_true_502(proxy: Proxy, registry: Registry) -> None:
    """A blob of at most 64 KiB waits for its digest before its headers: a lie is a 502 with an OCI body."""
    small = registry.add_blob(REPOSITORY, blob(5000))
    registry.script(small.digest, script.spoil(17), times=1)
    answer = await proxy.pull(small)
    assert (answer.status, answer.code) == (502, "UNKNOWN")
    assert (await proxy.pull(small)).body == small.data


@CROWDS
async def test_a_spliced_part_that_does_not_match_is_fetched_again_once(
    proxy: Proxy, registry: Registry, wanted: Blob, readers: int
) -> None:
    """A wrong digest after a resume is first blamed on the splice: one fetch from zero; who took wrong bytes is cut."""
    registry.script(wanted.digest, script.spoil(0), script.cut(2 * MIB), times=1)
    pulls = await crowd(proxy, wanted, readers)
    results = await asyncio.gather(*(pulling.rest() for pulling in pulls), return_exceptions=True)
    starts = [wanted.size * part // readers for part in range(readers)]
    for start, result in zip(starts, results, strict=True):
        assert isinstance(result, ConnectionError) or result == wanted.data[start:]
    assert isinstance(results[0], ConnectionError)  # it was sent the wrong first byte
    await proxy.quiet()
    assert proxy.stored(wanted.digest) == wanted.data
    assert [type(event) for event in proxy.heard] == [TransferResumed, IntegrityFailed]


async def test_a_spoilt_kept_part_is_fetched_again(
    cache_dir: Path, registry: Registry, clock: Clock, wanted: Blob
) -> None:
    """A part that an ended process left, and that rotted since, costs one fetch from zero and no client its pull."""
    gate = registry.hold(wanted.digest, after_bytes=2 * MIB)
    async with proxied(cache_dir, registry, clock) as proxy:
        pulling = await proxy.start_pull(wanted)
        await pulling.read(MIB)
        await gate.reached()
        await pulling.leave()
    (part,) = (cache_dir / "parts").glob("*.part")
    with part.open("r+b") as file:
        file.write(b"rot")
    registry.heal()
    async with proxied(cache_dir, registry, clock) as proxy:
        with pytest.raises(ConnectionError):
            await proxy.pull(wanted)
        assert (await proxy.pull(wanted)).body == wanted.data
        await proxy.quiet()


async def test_an_endless_body_is_cut(cache_dir: Path, registry: Registry, clock: Clock, wanted: Blob) -> None:
    """A body without a length and without an end stops at limits.max_blob: nobody takes it for whole, none is kept."""
    registry.script(wanted.digest, script.endless, times=1)
    async with proxied(cache_dir, registry, clock, extra="limits: {max_blob: 4MiB}") as proxy:
        pulling = await proxy.start_pull(wanted)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await pulling.rest()
        await proxy.quiet()
        assert proxy.stored(wanted.digest) is None
        assert (await proxy.pull(wanted)).body == wanted.data
        await proxy.quiet()
