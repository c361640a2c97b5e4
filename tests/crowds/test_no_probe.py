"""A file system that knows no RWF_NOWAIT (tmpfs before Linux 6.6, FUSE, NFS): that is no fault, and costs no byte."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from proxy.events import IntegrityFailed, NotStored, StorageDegraded
from proxy.store.disk import HASH_FIRST
from tests.support.clock import Clock
from tests.support.images import blob
from tests.support.proxy import config_text, running
from tests.support.registry import Registry
from tests.support.volume import volume

REPOSITORY = "team/app"
SIZES = [1000, 3 << 20, HASH_FIRST + 5]


@pytest.fixture(params=["refused", "a real tmpfs"])
def root(request: pytest.FixtureRequest, short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A cache directory where no read can be asked not to wait; on a tmpfs of this kernel, as it is."""
    if request.param == "a real tmpfs":
        with volume(short_tmp / "disk", "64m") as disk:
            yield disk.root / "cache"
        return
    preadv = os.preadv

    def refused(descriptor: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return preadv(descriptor, buffers, offset, flags)

    monkeypatch.setattr(os, "preadv", refused)
    yield short_tmp / "cache"


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_system_without_nowait_is_no_fault(
    root: Path, registry: Registry, clock: Clock, size: int
) -> None:
    """Cold, warm, suspect and by range: every byte is right, from here, and nothing is told of a disk."""
    wanted = registry.add_blob(REPOSITORY, blob(size))
    async with running(config_text(root, registry, "hydrate: {image: none}\n"), clock) as proxy:
        proxy.hear(NotStored, StorageDegraded, IntegrityFailed)
        assert (await proxy.pull(wanted)).body == wanted.data
        await proxy.quiet()
        for _ in range(2):
            answer = await proxy.pull(wanted)
            assert answer.body == wanted.data
            assert answer.headers["Cache-Status"].endswith("; hit")
            assert (await proxy.pull(wanted, Range="bytes=500-")).body == wanted.data[500:]
            proxy.rooms.disk.blobs.path_of(wanted.digest).touch()  # suspect: hashed again by the next pull
        assert registry.requests_for(wanted.digest) == 1
        assert proxy.heard == []
