"""Whether the disk takes what is written: told by the writes that failed, and tried again by a probe until it does.

While it does not, nothing else is written: bodies stream past it. The probe writes, syncs and deletes a small file of
its own. Too few file descriptors are no fault of the disk.
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from proxy.errors import NO_DESCRIPTOR
from proxy.events import Events, StorageDegraded, StorageRecovered
from proxy.store.filesystem import Filesystem, forget, write_new
from proxy.store.threads import Threads
from proxy.tasks import Tasks

PROBE: Final = "capacity.probe"
PROBE_BYTES: Final = 256 << 10  # more than any file system hides in an inode
FIRST_PROBE_S: Final = 1.0
PROBE_MAX_S: Final = 30.0
REASONS: Final = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.EROFS: "disk_read_only",
    errno.EACCES: "disk_read_only",
    errno.EPERM: "disk_read_only",
    errno.EIO: "disk_failed",
    errno.ETIMEDOUT: "disk_slow",
    errno.EMFILE: "descriptors",
    errno.ENFILE: "descriptors",
}


def reason_of(error: OSError) -> str:
    """A word of a bounded set for what a disk refused with; `disk` for anything else."""
    return REASONS.get(error.errno or 0, "disk")


class Trouble:
    """`reason` is why nothing is written now, None while all is well."""

    def __init__(
        self,
        folder: Path,
        threads: Threads,
        files: Filesystem,
        tasks: Tasks,
        events: Events,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.reason: str | None = None
        self.detail = ""
        self._folder = folder
        self._threads = threads
        self._files = files
        self._tasks = tasks
        self._events = events
        self._pause = pause
        self._probing: asyncio.Task[None] | None = None

    def note(self, error: OSError) -> str:
        """A write failed; the reason in a word. The first one starts the probe."""
        reason = reason_of(error)
        if error.errno in NO_DESCRIPTOR:
            return reason
        if self.reason is None and (self._probing is None or self._probing.done()):
            self._probing = self._tasks.start(self._probe(), name="probe the disk")
        if self.reason is None:
            self.detail = error.strerror or str(error)
            self._events.publish(StorageDegraded(reason, self.detail))
        self.reason = reason
        return reason

    async def _probe(self) -> None:
        wait_s = FIRST_PROBE_S
        while self.reason is not None:
            await self._pause(wait_s)
            await self.try_now()
            wait_s = min(PROBE_MAX_S, wait_s * 2)

    async def try_now(self) -> None:
        """Write a little, and know whether the disk takes it."""
        try:
            await self._threads.disk(_try, self._files, self._folder / PROBE)
        except OSError as error:
            self.reason, self.detail = reason_of(error), error.strerror or str(error)
            return
        if self.reason is not None:
            self.reason, self.detail = None, ""
            self._events.publish(StorageRecovered())


def _try(files: Filesystem, path: Path) -> None:
    forget(files, path)
    write_new(files, path, bytes(PROBE_BYTES))
    forget(files, path)
