"""Checks against rot: what is suspect is hashed again, once for all who ask; what is bad is set aside and told.

Invariant: a blob whose bytes were found wrong, or that the disk no longer gives, is opened for nobody after that; not
even where the disk will not let go of the file.
"""

import asyncio
import errno
import io
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from cachetools import LRUCache

from proxy.flights import Flights
from proxy.ledger import Ledger
from proxy.log import logger
from proxy.oci import Digest
from proxy.store.base import Verdict
from proxy.store.blocks import folder_of
from proxy.store.quarantine import Quarantine
from proxy.store.rehash import Rehash
from proxy.store.seals import Seal, Seals
from proxy.store.threads import Threads
from proxy.tasks import Tasks

log = logger("store")
Pause = Callable[[int], Awaitable[None]]
Bad = Callable[[Digest, str, str], None]  # digest, why, and the name that it was set aside under

SLICE: Final = 4 << 20  # bytes hashed per job: bounds how long a hash thread is held
# The medium or the file system says that the bytes are gone; whatever else reading fails with may pass.
LOST: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EREMOTEIO, errno.ENODATA, errno.EILSEQ})
STUCK_MAX: Final = 10_000


class Checks:
    """The checks of one store. `on_bad` hears of each blob that was found bad, once."""

    def __init__(
        self, threads: Threads, seals: Seals, quarantine: Quarantine, ledger: Ledger, tasks: Tasks, on_bad: Bad
    ) -> None:
        self.seals = seals
        self._threads = threads
        self._quarantine = quarantine
        self._ledger = ledger
        self._tasks = tasks
        self._on_bad = on_bad
        self._running: Flights[tuple[Digest, int], Verdict] = Flights(tasks, "check")
        self._condemning: Flights[Digest, None] = Flights(tasks, "condemn")
        self._stuck: LRUCache[Digest, int] = LRUCache(STUCK_MAX)  # bad files that cannot be removed, by inode

    async def may_open(self, digest: Digest, seal: Seal) -> bool:
        """Whether a file may be opened at all: not once it is condemned."""
        if self._condemning.running(digest):
            await self._condemning.fly(digest, _nothing)  # the running one: nothing is started between
            return False
        return self._stuck.get(digest) != seal.inode

    def begin(self, digest: Digest, path: Path, file: io.FileIO, seal: Seal) -> "asyncio.Future[Verdict]":
        """Hash a suspect blob that somebody opened; one check for all who ask meanwhile."""
        key = (digest, seal.inode)
        if self._running.running(key):
            return self._running.start(key, _unreadable)
        own = io.FileIO(os.dup(file.fileno()), "rb")  # its opener may leave
        check = self._running.start(key, lambda: self._check(digest, path, own))
        check.add_done_callback(lambda _: own.close())
        return check

    async def _check(self, digest: Digest, path: Path, file: io.FileIO) -> Verdict:
        async def step(rehash: Rehash) -> bool:
            return await self._threads.rehash(rehash.advance, os.dup(file.fileno()), SLICE)

        return await self._judge(digest, path, file, Rehash(digest.hasher(), gentle=False), step)

    async def gently(self, digest: Digest, path: Path, file: io.FileIO, pause: Pause) -> Verdict:
        """Hash a blob behind everybody else; `pause` is awaited with the bytes read since the last time."""

        async def step(rehash: Rehash) -> bool:
            before = rehash.offset
            more = await self._threads.last(rehash.advance, os.dup(file.fileno()), SLICE)
            await pause(rehash.offset - before)
            return more

        return await self._judge(digest, path, file, Rehash(digest.hasher(), gentle=True), step)

    async def _judge(
        self, digest: Digest, path: Path, file: io.FileIO, rehash: Rehash, step: Callable[[Rehash], Awaitable[bool]]
    ) -> Verdict:
        before = Seal.of(os.fstat(file.fileno()))
        try:
            while await step(rehash):
                pass
        except OSError as error:
            if error.errno not in LOST:
                log.warning("a stored blob cannot be read", digest=str(digest), error=str(error))
                return Verdict.UNREADABLE
            await self.condemn(digest, path, before.inode, f"the disk does not give its bytes: {error.strerror}")
            return Verdict.BAD
        if rehash.hexdigest() != digest.encoded:
            await self.condemn(digest, path, before.inode, f"its {rehash.offset} bytes do not hash to it")
            return Verdict.BAD
        await self.seals.note(digest, before)  # as it was before: a change during the hash makes it suspect again
        return Verdict.WHOLE

    def fault(self, digest: Digest, path: Path, inode: int, error: OSError) -> None:
        """Reading an open blob met `error`: if its bytes are lost, it is set aside, so that a retry is served anew."""
        if error.errno in LOST:
            why = f"the disk does not give its bytes: {error.strerror}"
            self._condemning.start(digest, lambda: self._set_aside(digest, path, inode, why))

    async def condemn(self, digest: Digest, path: Path, inode: int | None, why: str) -> None:
        """Set a blob aside, unless another file than `inode` stands at its path by now."""
        await self._condemning.fly(digest, lambda: self._set_aside(digest, path, inode, why))

    async def _set_aside(self, digest: Digest, path: Path, inode: int | None, why: str) -> None:
        try:
            await self.seals.break_seal(digest)
        except OSError as error:
            log.warning("the index cannot note that a blob is bad", digest=str(digest), error=str(error))
        try:
            with self._ledger.changing(folder_of(digest)) as change:
                taken = await self._threads.disk(self._quarantine.take, path, digest, inode)
                if taken is None:
                    return
                change.took(-taken.freed, taken.folder)
                self._ledger.beside += taken.freed if taken.name else 0  # until the next census counts it
            aside = taken.name
        except OSError as error:
            if inode is not None:
                self._stuck[digest] = inode
            log.warning("a bad blob cannot be set aside: it is not served", digest=str(digest), error=str(error))
            aside = ""
        self._on_bad(digest, why, aside)


async def _nothing() -> None: ...


async def _unreadable() -> Verdict:
    return Verdict.UNREADABLE
