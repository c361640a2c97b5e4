"""A disk that refuses in mid-transfer: nobody hangs, nobody gets wrong bytes, and it recovers without a restart."""

import asyncio
import errno
import io
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.events import HydrationEnded, NotStored
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob, blob, manifest
from tests.support.leaks import Footprint
from tests.support.proxy import Proxy, proxied
from tests.support.registry import Registry
from tests.support.waiting import until
from tests.support.wire import Gate

MIB = 1 << 20
REPOSITORY = "team/app"


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: writes fail there with EFBIG, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def wanted(registry: Registry) -> Blob:
    return registry.add_blob(REPOSITORY, blob(3 * MIB))


async def test_a_disk_that_fills_up_in_mid_transfer(proxy: Proxy, registry: Registry, wanted: Blob) -> None:
    """Ten readers, from the start and from far in, get every byte on their connections; then it is kept again."""
    proxy.hear(NotStored)
    before = Footprint.here().files
    with no_file_beyond(MIB):
        async with asyncio.timeout(20):
            starts = [0] * 5 + [2 * MIB] * 5
            pulls = [await proxy.start_pull(wanted, Range=f"bytes={start}-") for start in starts]
            bodies = await asyncio.gather(*(pulling.rest() for pulling in pulls))
            await proxy.quiet()
    assert bodies == [wanted.data[start:] for start in starts]
    assert {event.reason for event in proxy.heard if isinstance(event, NotStored)} == {"disk_full"}
    assert proxy.stored(wanted.digest) is None
    assert registry.requests_for(wanted.digest) <= len(starts)
    await proxy.rooms.capacity.trouble.try_now()
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()
    assert proxy.stored(wanted.digest) == wanted.data
    assert Footprint.here().files <= before + 4


async def test_what_cannot_be_read_back_is_joined_to_nothing(
    proxy: Proxy, registry: Registry, wanted: Blob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk refuses, and what it has cannot be read back to be hashed: whoever took bytes of a first answer, which
    nobody can judge any more, is dropped; not one of them goes on with the bytes of a second one.
    """

    def unreadable(file: io.FileIO, *_: object) -> None:
        file.close()
        raise OSError(errno.EIO, "injected: it cannot be read back")

    monkeypatch.setattr("proxy.downloads.unkept._hashed", unreadable)
    half, held = MIB // 2, Gate()
    registry.script(wanted.digest, script.spoil(1000), script.gate(held, half), times=1)
    with no_file_beyond(MIB):
        async with asyncio.timeout(20):
            early = await proxy.start_pull(wanted)
            assert len(await early.read(half)) == half
            late = await proxy.start_pull(wanted, Range=f"bytes={2 * MIB}-")
            await late.head()
            held.open()
            with pytest.raises(ConnectionError):
                await early.rest()
            assert await late.rest() == wanted.data[2 * MIB :]
            await proxy.quiet()
    assert proxy.stored(wanted.digest) is None


async def test_a_stored_blob_that_cannot_be_opened_is_fetched_again(
    proxy: Proxy, registry: Registry, wanted: Blob
) -> None:
    """What stands at a blob's name and cannot be read fails nobody: the upstream is asked, the blob stored again."""
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()
    path = proxy.rooms.disk.blobs.path_of(wanted.digest)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as planted:  # open() of a socket fails with ENXIO
        planted.bind(str(path))
    proxy.hear(NotStored)
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()
    assert {event.reason for event in proxy.heard if isinstance(event, NotStored)} == {"unreadable"}
    assert proxy.stored(wanted.digest) == wanted.data


async def test_a_full_disk_postpones_hydration(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """A job that met a full disk is tried again later, not given up."""
    big = blob(2 * MIB, seed=2)
    image = registry.add(REPOSITORY, "1", manifest(blob(1000), big))
    async with proxied(cache_dir, registry, clock) as proxy:
        proxy.hear(HydrationEnded)
        with no_file_beyond(MIB):
            assert (await proxy.ask(f"{REPOSITORY}/manifests/1")).status == 200
            assert (await proxy.pull(image.layers[0])).status == 200
            async with asyncio.timeout(10):
                [job] = await proxy.rooms.hydrate.postponed()
        assert (job.state, job.attempts) == ("queued", 1)
        assert proxy.heard == []
        await proxy.rooms.capacity.trouble.try_now()
        clock.advance(3600)
        proxy.rooms.hydrate.wake()
        await until(lambda: proxy.stored(big.digest) is not None)
        await proxy.quiet()


async def test_a_disk_that_takes_nothing_fails_no_manifest(
    proxy: Proxy, registry: Registry, clock: Clock, wanted: Blob
) -> None:
    """Manifests, tags and blobs are served though nothing can be kept, and say so; then all is well again."""
    image = registry.add(REPOSITORY, "1", manifest(blob(1000)))
    registry.add_blob("team/other", wanted)
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()
    with no_file_beyond(0):
        async with asyncio.timeout(20):
            for target in ("1", str(image.digest)):
                for method in ("GET", "HEAD"):
                    answer = await proxy.ask(f"{REPOSITORY}/manifests/{target}", method=method)
                    assert answer.status == 200
                    assert method == "HEAD" or answer.body == image.manifest.data
            cold = await proxy.pull(image.layers[0])
            assert (cold.status, cold.body) == (200, image.layers[0].data)
            assert cold.headers["Cache-Status"].endswith("; fwd=miss; detail=disk_full")
            shared = await proxy.pull(wanted, "team/other")  # proven by a HEAD, though the proof cannot be kept
            assert shared.body == wanted.data
            await proxy.quiet()
    await proxy.rooms.capacity.trouble.try_now()
    assert (await proxy.pull(image.layers[0])).body == image.layers[0].data
    await proxy.quiet()
