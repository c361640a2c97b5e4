"""Tags and links to save, and the records as another process would find them."""

import asyncio
from pathlib import Path

from proxy.freshness import TagRecord
from proxy.oci import OCI_INDEX, Descriptor, Digest
from proxy.rules import Place
from proxy.store.base import Link
from proxy.store.filesystem import Filesystem
from proxy.store.records import SqliteRecords

PLACE = Place("docker.io", "library/nginx")
PRIVATE = Place("docker.io|team", "library/nginx")
DIGEST = Digest.of(b"a manifest")


def record(checked: float = 2.0, digest: Digest = DIGEST) -> TagRecord:
    descriptor = Descriptor(OCI_INDEX, digest, 10)
    return TagRecord(descriptor=descriptor, first_seen=1.0, last_checked=checked, origin="https://registry.example")


def link(n: int, media_type: str | None = None, place: Place = PLACE) -> Link:
    return Link(place, Digest.of(b"%d" % n), media_type, n)


async def reopened(folder: Path) -> SqliteRecords:
    return await asyncio.to_thread(SqliteRecords.open, folder, Filesystem())
