"""One look at what is the member's own: the cache directory, the records, the queue, and the secrets it was given.

Blocks in a disk thread only. A disk that hangs is a finding too: one look runs at a time, and waiting for it ends.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from proxy.config import CredentialConfig, SecretUnavailable
from proxy.flights import Flights
from proxy.health.judge import Looked
from proxy.rules import Place
from proxy.store.base import Job
from proxy.store.filesystem import PRIVATE_FILE
from proxy.store.opened import Disk
from proxy.tasks import Tasks

Value = TypeVar("Value")
LOOK_WITHIN_S: Final = 5.0
PROBE: Final = "health.probe"
PROBE_BYTES: Final = 4096
NOBODY: Final = Place("", "")


class Look:
    """Looks at an open cache directory. `within_s` bounds the wait, not the look: a hung disk gets no second one."""

    def __init__(
        self,
        disk: Disk,
        credentials: Callable[[], Mapping[str, CredentialConfig]],
        environ: Mapping[str, str],
        tasks: Tasks,
        *,
        clock: Callable[[], float],
        within_s: float = LOOK_WITHIN_S,
    ) -> None:
        self._disk = disk
        self._credentials = credentials
        self._environ = environ
        self._clock = clock
        self._within_s = within_s
        self._looks: Flights[str, Looked] = Flights(tasks, "look at")

    async def __call__(self) -> Looked:
        files = await self._waited("the disk", self._files, lambda late: Looked(unreadable=late))
        records = await self._waited("the records", self._records, lambda late: Looked(records=late))
        queue = await self._waited("the queue", self._queue, lambda late: Looked(index=late))
        secrets = await self._waited("the secrets", self._secrets, lambda late: Looked())
        return Looked(
            unreadable=files.unreadable,
            unwritable=files.unwritable,
            free_bytes=files.free_bytes,
            total_bytes=files.total_bytes,
            records=records.records,
            index=queue.index,
            queued=queue.queued,
            oldest_s=queue.oldest_s,
            secrets=secrets.secrets,
        )

    async def _waited(
        self, what: str, look: Callable[[], Awaitable[Looked]], too_late: Callable[[str], Looked]
    ) -> Looked:
        try:
            async with asyncio.timeout(self._within_s):
                return await self._looks.fly(what, look)
        except TimeoutError:
            return too_late(f"no answer within {self._within_s:g} s")

    async def _files(self) -> Looked:
        return await self._disk.threads.disk(look_at_files, self._disk.directory.root)

    async def _records(self) -> Looked:
        try:
            await self._disk.records.tag(NOBODY, "")
        except OSError as error:
            return Looked(records=_words(error))
        return Looked()

    async def _queue(self) -> Looked:
        jobs = await self._disk.index.jobs("queued")
        return Looked(index=self._disk.index.trouble, queued=len(jobs), oldest_s=oldest_s(jobs, self._clock()))

    async def _secrets(self) -> Looked:
        return Looked(secrets=await self._disk.threads.disk(self._unavailable))

    def _unavailable(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, credentials in self._credentials().items():
            try:
                credentials.secret(self._environ)
            except SecretUnavailable as error:
                found[name] = str(error)
        return found


def oldest_s(jobs: Sequence[Job], now: float) -> float:
    """How long the oldest job has been waiting, in seconds; 0 if none does."""
    return max((now - job.queued_at for job in jobs), default=0.0)


def look_at_files(root: Path) -> Looked:
    """Whether the cache directory `root` can be read and written, and the room it has. Blocks."""
    try:
        with os.scandir(root / "blobs") as entries:
            next(entries, None)
        room = os.statvfs(root)
    except OSError as error:
        return Looked(unreadable=_words(error))
    return Looked(
        unwritable=_write_probe(root / "parts" / PROBE),
        free_bytes=room.f_bavail * room.f_frsize,
        total_bytes=room.f_blocks * room.f_frsize,
    )


def _write_probe(path: Path) -> str | None:
    """Write and remove a small file, unsynced: this asks whether the disk takes bytes, not whether it keeps them."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            os.write(descriptor, bytes(PROBE_BYTES))
        finally:
            os.close(descriptor)
            os.unlink(path)
    except OSError as error:
        return _words(error)
    return None


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
