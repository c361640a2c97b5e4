"""Stored content that went bad: no client completes it, it is set aside and fetched again, and nobody hangs."""

import asyncio
import errno
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.events import IntegrityFailed
from proxy.store.disk import HASH_FIRST
from tests.support.clock import Clock
from tests.support.damage import KINDS, flip_a_bit, lose_index, silently
from tests.support.images import Blob, blob
from tests.support.proxy import Proxy, Reply, proxied
from tests.support.registry import Registry

REPOSITORY = "team/app"
SIZES = {"small": 1000, "hashed first": 3 << 20, "hashed behind": HASH_FIRST + (1 << 20)}


async def held(proxy: Proxy, registry: Registry, size: int) -> Blob:
    """A blob of the registry that is stored here; its requests upstream count from now on."""
    wanted = registry.add_blob(REPOSITORY, blob(size))
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()
    proxy.hear(IntegrityFailed)
    return wanted


async def pulled(proxy: Proxy, wanted: Blob, tries: int = 3) -> bytes:
    """The whole blob as a client gets it that goes on by Range after a cut, as containerd does."""
    body = b""
    for _ in range(tries):
        pulling = await proxy.start_pull(wanted, Range=f"bytes={len(body)}-")
        try:
            await pulling.rest()
        except ConnectionError:
            continue  # what came is of a body that turned out wrong: begun again from nothing
        assert pulling.status == 206
        return body + bytes(pulling.body)
    raise AssertionError(f"no whole body in {tries} tries")


def quarantined(proxy: Proxy) -> list[Path]:
    return list(proxy.rooms.disk.directory.quarantine.iterdir())


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("damage", KINDS)
async def test_bad_content_never_completes(proxy: Proxy, registry: Registry, damage: str, size: int) -> None:
    """However a stored blob went bad, a pull gets right bytes at the first or second try, after one refetch (F07)."""
    wanted = await held(proxy, registry, size)
    before = registry.requests_for(wanted.digest)
    KINDS[damage](proxy.rooms.disk.blobs.path_of(wanted.digest))
    try:
        first: Reply | None = await proxy.pull(wanted)
    except ConnectionError:
        first = None
    if size <= HASH_FIRST:
        assert first is not None, "no byte had left: the upstream should have answered on the same connection"
    assert first is None or (first.status, first.body) == (200, wanted.data)
    assert await pulled(proxy, wanted) == wanted.data
    await proxy.quiet()
    assert registry.requests_for(wanted.digest) == before + 1
    assert proxy.stored(wanted.digest) == wanted.data
    assert [(event.where, event.digest) for event in proxy.heard if isinstance(event, IntegrityFailed)] == [
        ("store", wanted.digest)
    ]
    [aside] = quarantined(proxy)
    assert aside.name.startswith(f"sha256-{wanted.digest.encoded}.")
    assert aside.read_bytes() != wanted.data


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("damage", ["cut short", "longer", "empty"])
async def test_head_tells_no_wrong_size(proxy: Proxy, registry: Registry, damage: str, size: int) -> None:
    """A file of another length than its blob's is not what HEAD tells of, however large it is."""
    wanted = await held(proxy, registry, size)
    KINDS[damage](proxy.rooms.disk.blobs.path_of(wanted.digest))
    answer = await proxy.ask(f"{REPOSITORY}/blobs/{wanted.digest}", method="HEAD")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(size))
    [aside] = quarantined(proxy)
    assert aside.name.startswith(f"sha256-{wanted.digest.encoded}.")


async def test_head_waits_for_no_hash_of_a_large_blob(
    proxy: Proxy, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suspect file of the length that was noted: its size is told while it is hashed."""
    wanted = await held(proxy, registry, SIZES["hashed behind"])
    proxy.rooms.disk.blobs.path_of(wanted.digest).touch()
    gate, hashing = threading.Event(), proxy.rooms.disk.threads.hash

    async def later(work: Callable[..., Any], *args: Any) -> Any:
        return await hashing(lambda: gate.wait(10) and work(*args))

    monkeypatch.setattr(proxy.rooms.disk.threads, "hash", later)
    answer = await proxy.ask(f"{REPOSITORY}/blobs/{wanted.digest}", method="HEAD")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(wanted.size))
    gate.set()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_a_crowd_on_a_bad_blob(proxy: Proxy, registry: Registry, size: int) -> None:
    """Eight clients at different offsets: none of those who asked for the end completes a wrong body; one refetch."""
    wanted = await held(proxy, registry, size)
    before = registry.requests_for(wanted.digest)
    path = proxy.rooms.disk.blobs.path_of(wanted.digest)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # within every client's range
    path.write_bytes(data)
    offsets = [wanted.size * part // 8 for part in range(8)]
    async with asyncio.timeout(30):
        pulls = [await proxy.start_pull(wanted, Range=f"bytes={offset}-") for offset in offsets]
        bodies = await asyncio.gather(*(pulling.rest() for pulling in pulls), return_exceptions=True)
    for offset, body in zip(offsets, bodies, strict=True):
        assert isinstance(body, ConnectionError) or body == wanted.data[offset:]
    assert await pulled(proxy, wanted) == wanted.data
    await proxy.quiet()
    assert registry.requests_for(wanted.digest) == before + 1
    assert len(proxy.heard) == len(quarantined(proxy)) == 1


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
async def test_a_whole_blob_that_looks_changed_is_a_hit(proxy: Proxy, registry: Registry, size: int) -> None:
    """A file that was only touched is hashed and served; nobody asks the upstream, and it is trusted from then on."""
    wanted = await held(proxy, registry, size)
    before = registry.requests_for(wanted.digest)
    path = proxy.rooms.disk.blobs.path_of(wanted.digest)
    path.write_bytes(path.read_bytes())
    for _ in range(2):
        assert (await proxy.pull(wanted)).body == wanted.data
    opened = await proxy.rooms.disk.blobs.read(wanted.digest)
    assert opened is not None
    opened.close()
    assert opened.verdict is None
    assert registry.requests_for(wanted.digest) == before
    assert proxy.heard == []


async def test_what_has_no_seal_is_hashed_before_it_is_served(
    cache_dir: Path, registry: Registry, clock: Clock
) -> None:
    """After the index is lost nothing is trusted: what rotted with its time unchanged is found at the first read."""
    async with proxied(cache_dir, registry, clock) as proxy:
        wanted = await held(proxy, registry, SIZES["hashed first"])
        path = proxy.rooms.disk.blobs.path_of(wanted.digest)
    silently(flip_a_bit, path)
    lose_index(cache_dir)
    async with proxied(cache_dir, registry, clock) as proxy:
        proxy.hear(IntegrityFailed)
        assert (await proxy.pull(wanted)).body == wanted.data
        await proxy.quiet()
        assert len(proxy.heard) == 1
        assert proxy.stored(wanted.digest) == wanted.data


async def test_a_read_error_costs_one_cut(proxy: Proxy, registry: Registry) -> None:
    """A blob whose bytes the disk no longer gives is set aside when a read says so; the retry is a refetch (F05)."""
    wanted = await held(proxy, registry, SIZES["small"])
    before = registry.requests_for(wanted.digest)
    opened = await proxy.rooms.disk.blobs.read(wanted.digest)
    assert opened is not None
    opened.failed(OSError(errno.EIO, "Input/output error"))
    opened.close()
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()
    assert registry.requests_for(wanted.digest) == before + 1
    assert len(quarantined(proxy)) == 1


async def test_a_blob_cut_short_while_it_is_sent(proxy: Proxy, registry: Registry) -> None:
    """A file that ends early under a client drops that client, and the next one is served from a refetch."""
    wanted = await held(proxy, registry, SIZES["hashed behind"])
    path = proxy.rooms.disk.blobs.path_of(wanted.digest)
    slow = await proxy.start_pull(wanted)
    await slow.read(1000)
    with path.open("r+b") as file:
        file.truncate(wanted.size - 4096)
    with pytest.raises(ConnectionError):
        await slow.rest()
    assert await pulled(proxy, wanted) == wanted.data
    await proxy.quiet()
    assert proxy.stored(wanted.digest) == wanted.data


async def test_with_the_upstream_away_bad_content_is_refused(proxy: Proxy, registry: Registry) -> None:
    """Nobody can fetch it again: the client is told 503, not given wrong bytes."""
    wanted = await held(proxy, registry, SIZES["small"])
    flip_a_bit(proxy.rooms.disk.blobs.path_of(wanted.digest))
    await registry.stop()
    assert (await proxy.pull(wanted)).status == 503
