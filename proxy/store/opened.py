"""Everything a server keeps on its local disk, opened in order and closed in reverse."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.ledger import Ledger
from proxy.log import logger
from proxy.oci import Digest
from proxy.store.checks import Bad, Checks
from proxy.store.directory import Directory, own_directory, read_boot_id
from proxy.store.disk import DiskStore
from proxy.store.filesystem import Filesystem
from proxy.store.index import SqliteIndex
from proxy.store.quarantine import Quarantine
from proxy.store.records import SqliteRecords
from proxy.store.seals import Seals
from proxy.store.standing import Standing
from proxy.store.threads import Threads
from proxy.tasks import Tasks

log = logger("store")

FLUSH_EVERY_S: Final = 30.0
SYNC_EVERY_S: Final = 20.0  # what an unclean stop leaves without a seal, and has hashed again
BACKUP_EVERY_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Disk:
    """An open cache directory. `parts` is where downloads grow their files, on the same file system as the blobs;
    `ledger` books what all of it takes.
    """

    directory: Directory
    blobs: DiskStore
    records: SqliteRecords
    index: SqliteIndex
    seals: Seals
    threads: Threads
    ledger: Ledger
    files: Filesystem
    quarantine: Quarantine

    @property
    def parts(self) -> Path:
        return self.directory.parts


def tell_bad(digest: Digest, why: str, aside: str) -> None:
    """The one log line of a bad blob, where nobody else listens."""
    log.error("a stored blob is bad", digest=str(digest), why=why, aside=aside)


@asynccontextmanager
async def open_disk(
    directory: Path,
    *,
    files: Filesystem | None = None,
    boot_id: str | None = None,
    ballast: bool = True,
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    clock: Callable[[], float] = time.time,
    on_bad: Bad = tell_bad,
    on_replaced: Callable[[], None] = lambda: None,
) -> AsyncIterator[Disk]:
    """Own, lay out and open `directory`; on the way out back up and close. `ballast` as in `own_directory`; `pause`
    waits between backups; `on_bad` hears of every blob that is found bad, `on_replaced` when another directory had to
    be owned at the same path.

    StoreBusy: another server has it. StoreRefused: it cannot be used, and why. OSError: the disk failed.
    """
    files = files or Filesystem()
    async with AsyncExitStack() as stack:
        threads = await stack.enter_async_context(Threads())
        boot_id = await threads.disk(read_boot_id) if boot_id is None else boot_id
        owned = await own_directory(directory, threads, files, boot_id, ballast=ballast)
        stack.callback(owned.release)
        stack.push_async_callback(threads.close)  # work that lost its caller ends before the directory is given up
        records = await threads.disk(SqliteRecords.open, owned.root, files)
        stack.push_async_callback(records.close)
        index = await threads.disk(SqliteIndex.open, owned.root, files)
        stack.push_async_callback(index.close)
        seals = Seals(index.database, clock)
        stack.push_async_callback(_last_sync, seals)
        tasks = await stack.enter_async_context(Tasks())
        ledger = Ledger()
        quarantine = Quarantine(owned.quarantine, files)
        checks = Checks(threads, seals, quarantine, ledger, tasks, on_bad)
        blobs = DiskStore(owned.blobs, owned.parts, threads, files, checks, ledger)
        for database in (records, index):
            tasks.start(_once(database.check), name="check a database")
        tasks.start(_every(SYNC_EVERY_S, seals.sync, pause), name="sync point")
        tasks.start(_every(FLUSH_EVERY_S, index.flush, pause), name="write last uses")
        tasks.start(_every(BACKUP_EVERY_S, records.backup, pause), name="back up records")
        standing = Standing(owned, records, index, blobs, threads, files, boot_id, on_replaced)
        tasks.start(standing.run(pause), name="see that the directory stands")
        yield Disk(owned, blobs, records, index, seals, threads, ledger, files, quarantine)


async def _last_sync(seals: Seals) -> None:
    try:
        await seals.sync()
    except OSError as error:
        log.warning("the last sync point failed: what is new is hashed again when it is read", error=str(error))


async def _once(work: Callable[[], Awaitable[None]]) -> None:
    try:
        await work()
    except OSError as error:
        log.warning("a database could not be checked", error=str(error))


async def _every(
    seconds: float, work: Callable[[], Awaitable[None]], pause: Callable[[float], Awaitable[object]]
) -> None:
    while True:
        await pause(seconds)
        try:
            await work()
        except OSError as error:
            log.warning("the disk refuses housekeeping; tried again later", error=str(error))
