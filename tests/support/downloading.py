"""What the downloads room stands on in a test: parts, records and an index in one folder, over a given upstream."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.downloads.transfer import Origin
from proxy.events import Events
from proxy.ground import Ground
from proxy.rules import Source
from proxy.store.base import BlobStore
from proxy.store.filesystem import Filesystem
from proxy.store.index import SqliteIndex
from proxy.store.records import SqliteRecords
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from proxy.upstream.base import Upstreams

ORIGIN = Origin(Source("up.example", "team/app"))


@asynccontextmanager
async def ground_in(
    folder: Path, store: BlobStore, upstream: Upstreams, *, threads: Threads | None = None, **given: Any
) -> AsyncIterator[Ground]:
    """A ground whose tasks end, and whose databases close, at the end; `given` are further fields of it."""
    async with threads or Threads() as pools, Tasks() as tasks:
        records, index = SqliteRecords.open(folder, Filesystem()), SqliteIndex.open(folder, Filesystem())
        try:
            yield Ground(
                blobs=store,
                records=records,
                index=index,
                parts=folder,
                threads=pools,
                upstreams=upstream,
                tasks=tasks,
                **{"events": Events(), **given},
            )
        finally:
            await tasks.stop()
            await records.close()
            await index.close()
