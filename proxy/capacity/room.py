"""Admission: room on the disk is claimed before the first byte of a body is written, so the cap is never passed.

Knows the book, the limits and the file system; nothing of images. Who makes room hears `short` and says `made`; a body
for which there is none is streamed past the disk meanwhile.
Invariant: what is claimed and what is taken stay together within `max_size` and leave `keep_free`, as far as the last
look at the file system (at most LOOK_EVERY_S old) can tell.
"""

import asyncio
import errno
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from proxy.capacity.limits import Limits
from proxy.capacity.trouble import Trouble
from proxy.errors import NotKept
from proxy.events import Events, StoreReplaced
from proxy.ledger import Claim, Ledger, blocks_for
from proxy.log import logger
from proxy.store.census import Census, Room
from proxy.store.directory import KEPT_PARTS
from proxy.store.filesystem import forget
from proxy.store.opened import Disk
from proxy.tasks import Tasks

log = logger("capacity")
LOOK_EVERY_S: Final = 1.0  # others fill the disk too: its room is looked at this often while bodies come in
IDLE_LOOK_EVERY_S: Final = 10.0  # and this often when none do
COUNT_EVERY: Final = 60  # looks of those: the book is brought to the truth every ten minutes
BEGIN_WITHIN_S: Final = 0.25  # a start waits so long for the first count
DROPPED_WITHIN_S: Final = 20.0  # as long as a write may take
WAIT_S: Final = 2.0  # how long a body may go on in memory while room is made for it
SIZE_EVERY_S: Final = 3600.0  # what the cache takes is noted this often: growth is reckoned from it
KEPT_PARTS_SHARE: Final = 20  # parts that nobody fills may take one part in so many of the cap


class Capacity:
    """The room of one cache directory: `begin` it once, then start `run` as a task."""

    def __init__(
        self,
        disk: Disk,
        limits: Callable[[], Limits],
        tasks: Tasks,
        events: Events,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._disk = disk
        self._limits = limits
        self._tasks = tasks
        self._clock = clock
        self._monotonic = monotonic
        self._pause = pause
        self._filled: set[str] = set()  # parts that transfers fill now, whatever files they consist of
        self._dropping: set[str] = set()  # parts that are being deleted
        self._census = Census(disk.directory, disk.threads, disk.ledger, lambda: self._filled, disk.blobs.passing)
        self._counting = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = 0.0
        self._size_saved_at = 0.0
        self._room: Room | None = None
        self._taken_at_look = 0
        self.trouble = Trouble(disk.parts, disk.threads, disk.files, tasks, events, pause)
        events.listen(StoreReplaced, self._begin_again)
        self.wanted = 0  # bytes that the largest body needs which found no room since eviction last looked
        self.short = asyncio.Event()
        self._made = asyncio.Condition()
        self._hopeless = False  # the last round could not make the room that was called for

    @property
    def ledger(self) -> Ledger:
        return self._disk.ledger

    @property
    def room(self) -> Room | None:
        """The file system at the last look; None before the first."""
        return self._room

    @property
    def cap(self) -> int | None:
        """Bytes that the directory may take, as far as `max_size` goes."""
        return None if self._room is None else self._limits().cap(self._room)

    @property
    def free(self) -> int:
        """Bytes of the file system that are free for us, at the last look."""
        return 0 if self._room is None else self._room.free

    @property
    def keep_free(self) -> int:
        """Bytes of the file system that are left to others."""
        return 0 if self._room is None else self._limits().keep_free.of(self._room.total)

    def left(self) -> int:
        """Bytes that may still be promised."""
        if self._room is None:
            return 0
        ledger = self._disk.ledger
        committed, at_look = ledger.committed, self._taken_at_look
        if not ledger.known:
            # Not counted yet. Whatever the directory takes, it is no more than all that the file system has given.
            committed, at_look = self._room.used + committed, self._room.used
        return self._limits().left(self._room, committed, at_look)

    def shortage(self) -> int:
        """How many bytes must go for the largest body that found no room: 0 if there is enough."""
        if self._room is None or not self._disk.ledger.known:
            return 0
        limits = self._limits()
        return max(0, min(self.wanted, limits.cap(self._room)) + limits.spare(self._room) - self.left())

    def excess(self) -> int:
        """How many bytes should go now, so that the next body finds room too: 0 if there is enough."""
        if self._room is None or not self._disk.ledger.known:
            return 0
        limits = self._limits()
        ahead = limits.spare(self._room) + limits.slack(self._room)
        return max(0, min(self.wanted, limits.cap(self._room)) + ahead - self.left())

    def why_nothing(self) -> str | None:
        """Why no body can be stored now, in words; None if one can."""
        if self.trouble.reason is not None:
            return f"the disk refuses: {self.trouble.detail}"
        if self._room is not None and self.left() <= 0:
            return "there is no room left by cache.max_size and cache.keep_free"
        return None

    # The port of bodies

    def claim(self, size: int, *, small: bool = False) -> Claim:
        self._admit(blocks_for(size), small)
        return self._disk.ledger.claim(blocks_for(size))

    def extend(self, claim: Claim, size: int) -> None:
        self._admit(max(0, blocks_for(size) - claim.bytes), small=False)
        claim.promised = max(claim.promised, blocks_for(size))

    async def wait(self, size: int) -> Claim:
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    try:
                        return self.claim(size)
                    except NotKept as error:
                        if error.why not in ("no_room", "starting"):
                            raise
                        async with self._made:
                            await self._made.wait()
                        if self._hopeless:
                            return self.claim(size)
        except TimeoutError:
            return self.claim(size)

    def _admit(self, wanted: int, small: bool) -> None:
        if self.trouble.reason is not None:
            raise NotKept(self.trouble.reason, f"the cache's disk refuses: {self.trouble.detail}")
        self._look_again()
        if self._room is None:
            raise NotKept("starting", "the cache does not know its room yet")
        cap, spare, left = self._limits().cap(self._room), self._limits().spare(self._room), self.left()
        if wanted + spare > cap:
            raise NotKept("too_large", f"{wanted} bytes are more than the whole cache may take ({cap})")
        if wanted + (spare // 2 if small else spare) > left:
            self.wanted = max(self.wanted, wanted)
            self.short.set()
            why = "no_room" if self._disk.ledger.known else "starting"
            raise NotKept(why, f"{wanted} bytes are more than the cache has room for now ({max(0, left)})")
        if left - wanted < spare + self._limits().slack(self._room):
            self.short.set()  # room is made before the next one needs it

    def kept_part(self, name: str, size: int) -> None:
        self._filled.discard(Path(name).stem)
        self._disk.ledger.kept_parts[name] = blocks_for(size)
        if self.cap is not None and self._disk.ledger.parts > self.cap // KEPT_PARTS_SHARE:
            self.short.set()

    async def took_part(self, name: str) -> None:
        part = Path(name).stem
        self._filled.add(part)
        try:
            async with asyncio.timeout(DROPPED_WITHIN_S):
                while part in self._dropping:  # a file that is just being deleted is no start
                    async with self._made:
                        await self._made.wait()
        except TimeoutError as cause:
            raise TimeoutError(errno.ETIMEDOUT, "the disk deletes a part, and gives no answer") from cause
        for suffix in KEPT_PARTS:
            self._disk.ledger.kept_parts.pop(part + suffix, None)

    def left_part(self, name: str) -> None:
        self._filled.discard(Path(name).stem)

    async def drop_kept_parts(self) -> None:
        """Delete parts that nobody fills, those first that were left first, while room is short or they take more
        than their share.
        """
        kept = self._disk.ledger.kept_parts
        for name in list(kept):
            bound = (self.cap or 0) // KEPT_PARTS_SHARE
            if not self.excess() and self._disk.ledger.parts <= bound:
                return
            part = Path(name).stem
            if part in self._filled or name not in kept:
                continue
            self._dropping.add(part)
            try:
                await self._disk.threads.disk(forget, self._disk.files, self._disk.parts / name)
                kept.pop(name, None)
            except OSError as error:
                log.warning("a part cannot be deleted", file=name, error=str(error))
            finally:
                self._dropping.discard(part)
                await self.made()

    async def drop_bad_content(self) -> None:
        """Delete what was set aside, the oldest first, while room is short: a whole image is worth more."""
        try:
            while self.excess() and (gone := await self._disk.threads.disk(self._disk.quarantine.drop_oldest)):
                self._disk.ledger.beside -= gone.freed
                log.warning("bad content that was set aside was deleted for room", file=gone.name, bytes=gone.freed)
                await self.made()
        except OSError as error:
            log.warning("bad content that was set aside cannot be deleted", error=str(error))

    def refused(self, error: OSError) -> str:
        return self.trouble.note(error)

    # What keeps the book true

    async def made(self, *, hopeless: bool = False) -> None:
        """Room was made, or none can be: whoever waits looks again, or gives up."""
        self._hopeless = hopeless
        async with self._made:
            self._made.notify_all()

    async def look(self) -> None:
        """Look at the file system now. OSError: it cannot be looked at."""
        room = await self._census.look()
        self._room, self._taken_at_look = room, self._disk.ledger.taken
        self._looked_at = self._monotonic()

    def _look_again(self) -> None:
        """Look behind the one who asks, unless that was done just now."""
        is_old = self._monotonic() - self._looked_at >= LOOK_EVERY_S
        if is_old and (self._looking is None or self._looking.done()):
            self._looking = self._tasks.start(self._guarded(self.look), name="look at the disk")

    def _begin_again(self, _event: StoreReplaced) -> None:
        """Another directory stands in the place of the one that was counted."""
        self._tasks.start(self._guarded(self.count), name="count the cache again")

    async def begin(self) -> None:
        """Look once and begin to count: a small cache is counted on return, a large one goes on behind."""
        await self._guarded(self.look)
        counting = self._tasks.start(self._guarded(self.count), name="count the cache")
        await asyncio.wait([counting], timeout=BEGIN_WITHIN_S)

    async def run(self) -> None:
        """Look on a schedule, since others fill the disk too and limits change, and count everything now and then;
        until cancelled.
        """
        for turn in itertools.count(1):
            await self._pause(IDLE_LOOK_EVERY_S)
            await self._guarded(self.look if turn % COUNT_EVERY else self.count)
            if self.excess():
                self.short.set()

    async def count(self) -> None:
        """Bring the book to the truth. OSError: the disk refuses."""
        async with self._counting:  # two at once would each take what the other saw for what is left over
            await self._count()

    async def _count(self) -> None:
        before = self._disk.ledger.taken
        is_first = not self._disk.ledger.known
        await self._census.take()
        for name in self._census.left_over:  # a disk that refused to write them refused to delete them too
            await self._disk.threads.disk(forget, self._disk.files, self._disk.parts / name)
        await self.look()
        await self.made()
        after = self._disk.ledger.taken
        if is_first:
            log.info("the cache was counted", bytes=after)
        elif before != after:
            log.info("the book of the cache was corrected", before=before, after=after)
        if self._clock() - self._size_saved_at >= SIZE_EVERY_S:
            self._size_saved_at = self._clock()
            await self._disk.index.save_size(self._clock(), after)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except OSError as error:
            log.warning("the cache's disk cannot be looked at", error=str(error))
