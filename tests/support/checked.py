"""A disk store over plain folders, with its seals, its checks and its quarantine, and a file system that may fail."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from proxy.ledger import Ledger
from proxy.oci import HEX_LENGTH, Digest
from proxy.store.checks import Checks
from proxy.store.disk import DiskStore
from proxy.store.filesystem import Filesystem
from proxy.store.index import SqliteIndex
from proxy.store.quarantine import Quarantine
from proxy.store.seals import Seals
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from tests.support.clock import Clock
from tests.support.faulty import FaultyFilesystem


@dataclass
class Bench:
    """`bad` are the blobs that were found bad: digest, why, and the name they were set aside under."""

    root: Path
    files: FaultyFilesystem
    threads: Threads
    seals: Seals
    store: DiskStore
    clock: Clock
    bad: list[tuple[Digest, str, str]] = field(default_factory=list)

    @property
    def parts(self) -> Path:
        return self.root / "parts"

    @property
    def quarantined(self) -> list[bytes]:
        """What was set aside, oldest first."""
        aside = sorted((self.root / "quarantine").iterdir(), key=lambda path: int(path.suffix[1:]))
        return [path.read_bytes() for path in aside]

    def part(self, data: bytes, name: str = "x.part") -> Path:
        path = self.parts / name
        path.write_bytes(data)
        return path

    def here(self) -> list[str]:
        """The names of all files but the index's."""
        return sorted(path.name for path in self.root.rglob("*") if not path.is_dir() and "index" not in path.name)


@asynccontextmanager
async def checked_store(root: Path) -> AsyncIterator[Bench]:
    """A store whose index is a file beside it; it keeps what it noted only up to the last sync point."""
    for folder in ("parts", "quarantine", *(f"blobs/{algorithm}" for algorithm in HEX_LENGTH)):
        (root / folder).mkdir(parents=True, exist_ok=True)
    files, clock = FaultyFilesystem(), Clock()
    bad: list[tuple[Digest, str, str]] = []
    async with Threads() as threads, Tasks() as tasks:
        index = await threads.disk(SqliteIndex.open, root, Filesystem())
        seals = Seals(index.database, clock)
        quarantine = Quarantine(root / "quarantine", files)
        ledger = Ledger()
        checks = Checks(threads, seals, quarantine, ledger, tasks, lambda *found: bad.append(found))
        store = DiskStore(root / "blobs", root / "parts", threads, files, checks, ledger)
        try:
            yield Bench(root, files, threads, seals, store, clock, bad)
        finally:
            await tasks.stop()
            await index.close()
