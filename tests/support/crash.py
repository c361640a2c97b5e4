"""One life of a store, to be broken at its N-th file system call; and what must hold on the directory afterwards.

Run as a program it lives that life again and again, each in a fork that is killed at one of the given calls.
"""

import asyncio
import os
import sys
from pathlib import Path

from proxy.oci import Digest
from proxy.rules import Place
from proxy.store.base import Link
from proxy.store.filesystem import Filesystem
from proxy.store.opened import Disk, open_disk
from tests.support.faulty import FaultyFilesystem, LossyFilesystem, kill, plain_files

PLACE = Place("docker.io", "library/nginx")
LAYER = b"layer" * 20_000
MANIFEST = b'{"schemaVersion": 2}'
EVICTED, CONDEMNED = b"evicted" * 1000, b"condemned" * 1000  # they come and go; a crash may leave them whole
BODIES = {Digest.of(LAYER): LAYER, Digest.of(MANIFEST): MANIFEST, Digest.of(MANIFEST, "sha512"): MANIFEST}
BOOT = "boot-1"


async def live(root: Path, files: Filesystem, told: list[Digest]) -> None:
    """Open, take a layer from a part, put manifests, save links, delete one blob, set another aside, make a sync point,
    back up, close. `told` gets what was acknowledged.
    """
    async with open_disk(root, files=files, boot_id=BOOT) as disk:
        for digest, body in BODIES.items():
            await _keep(disk, files, digest, body)
            told.append(digest)
            await disk.records.save_links([Link(PLACE, digest, None, len(body))])
        for body in (EVICTED, CONDEMNED):
            await disk.blobs.put(body, Digest.of(body))
        await disk.blobs.delete(Digest.of(EVICTED))
        await disk.blobs.condemn(Digest.of(CONDEMNED), "a sweep")
        await disk.seals.sync()
        await disk.records.backup()


async def _keep(disk: Disk, files: Filesystem, digest: Digest, body: bytes) -> None:
    if body is not LAYER:
        await disk.blobs.put(body, digest)
        return
    part = disk.parts / f"{digest.algorithm}-{digest.encoded}.part"
    await disk.threads.disk(part.write_bytes, body)
    if isinstance(files, LossyFilesystem):
        files.wrote(part)
    await disk.blobs.adopt(part, digest, len(body))


async def check(root: Path, told: list[Digest], boot_id: str = BOOT) -> None:
    """The directory opens by itself; what is visible is whole and true (I2, I10); what was acknowledged is here."""
    async with open_disk(root, boot_id=boot_id) as disk:
        listed = {stored.digest: stored.size async for stored in disk.blobs.list()}
        for digest, size in listed.items():
            body = disk.blobs.path_of(digest).read_bytes()
            assert digest.matches(body), f"{digest} is not whole"
            assert size == len(body)
        assert set(told) <= set(listed), "an acknowledged blob is gone"
        blobs = {disk.blobs.path_of(digest) for digest in listed}
        assert set(plain_files(root / "blobs")) == blobs, "something that is no blob stands among them"
        assert {path.suffix for path in disk.parts.iterdir()} <= {".part"}, "a leftover was not swept"
        assert {path.name[:7] for path in disk.directory.quarantine.iterdir()} <= {"sha256-"}
        linked = {link.digest for link in await disk.records.links(PLACE)}
        assert linked <= set(listed), "a link points at nothing"
        assert set(told[:-1]) <= linked, "an acknowledged link is gone"
        await live_again(disk)


async def live_again(disk: Disk) -> None:
    """The next pull works, whatever was left."""
    for digest, body in BODIES.items():
        await disk.blobs.put(body, digest)
        assert await disk.blobs.stat(digest) == len(body)
        await disk.records.save_links([Link(PLACE, digest, None, len(body))])


def main(base: Path, calls: list[int]) -> None:
    """Live once for each of `calls`, killed there; prints how each life ended: the call, and the signal (0: none)."""
    for at in calls:
        child = os.fork()
        if child == 0:
            asyncio.run(live(base / str(at), FaultyFilesystem(at, kill), []))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(at, os.WTERMSIG(status), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]])
