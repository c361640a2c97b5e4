"""Every call that a pull makes to change the disk fails once, or from then on: the client gets its bytes, always.

After SQLite's own tests: the N-th call fails, for every N until a pull runs through untouched. What is in the store is
true at every moment, the book agrees with the disk, and once the disk is well again the same blob is kept.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.oci import Digest
from tests.support.blocks import blocks_under
from tests.support.clock import Clock
from tests.support.faulty import FaultyFilesystem, io_error, no_space
from tests.support.images import Image, blob, manifest
from tests.support.proxy import Proxy, config_text, running
from tests.support.registry import Registry
from tests.support.waiting import answered, settled

MIB = 1 << 20
REPOSITORY = "team/app"
CALLS_MAX = 200


def read_only() -> None:
    raise OSError(errno.EROFS, "injected: read-only file system")


async def pulled(proxy: Proxy, image: Image, number: int) -> None:
    """Pull an image: every answer is exact, whatever the disk does."""
    answer = await proxy.ask(f"{REPOSITORY}/manifests/{number}")
    assert (answer.status, answer.body) == (200, image.manifest.data)
    for wanted in image.blobs:
        answer = await proxy.pull(wanted)
        assert (answer.status, answer.body) == (200, wanted.data)
    await proxy.quiet()


def stored_truly(proxy: Proxy) -> None:
    """Every name in the store is what its bytes hash to."""
    root = proxy.rooms.disk.directory.blobs
    for path in (path for path in root.rglob("*") if path.is_file()):
        assert Digest.of(path.read_bytes(), path.parent.parent.name).encoded == path.name


async def heal(proxy: Proxy, files: FaultyFilesystem) -> None:
    files.at = 0
    trouble = proxy.rooms.capacity.trouble

    async def has_recovered() -> bool:
        await trouble.try_now()
        await settled()  # what failed behind the pull may be noted as late as now
        return trouble.reason is None

    await answered(has_recovered)


@pytest.mark.parametrize(
    ("fault", "sticky"),
    [(io_error, False), (no_space, True), (read_only, True)],
    ids=["EIO once", "ENOSPC from then on", "EROFS from then on"],
)
async def test_every_call_of_a_pull_fails(
    cache_dir: Path, registry: Registry, clock: Clock, fault: Callable[[], None], sticky: bool
) -> None:
    """Manifest, config and a layer in several writes: no call of them may cost a client a byte."""
    files = FaultyFilesystem(fault=fault, sticky=sticky)
    text = config_text(cache_dir, registry, "hydrate: {image: none}\n")
    async with running(text, clock, files=files) as proxy:
        for number in range(1, CALLS_MAX):
            image = registry.add(REPOSITORY, str(number), manifest(blob(MIB + number, seed=number)))
            files.at = len(files.steps) + number
            await pulled(proxy, image, number)
            was_hit = files.was_hit
            stored_truly(proxy)
            await heal(proxy, files)
            await pulled(proxy, image, number)
            assert all(proxy.stored(wanted.digest) == wanted.data for wanted in image.blobs)
            if not was_hit:
                break
        assert 10 < number < CALLS_MAX - 1, "the sweep met every call"
        for _ in range(2):
            await proxy.rooms.capacity.count()
        ledger = proxy.rooms.capacity.ledger
        assert ledger.blobs == sum(blocks_under(shard) for shard in proxy.rooms.disk.directory.blobs.glob("*/*"))
        assert (ledger.claims, ledger.lingering) == (set(), 0)
        assert [name for name in os.listdir(proxy.rooms.disk.parts) if not name.endswith(".part")] == []
