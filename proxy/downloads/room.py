"""Downloads in flight: one transfer per digest, any number of readers.

Knows the store and a source of bytes; nothing of HTTP requests, rules or tags.
Invariant: a digest is in the table exactly while its task runs; the blob is in the store, or its bad part deleted,
before it leaves the table.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cachetools import LRUCache

from proxy.downloads.allotment import Allotment
from proxy.downloads.bell import Bell
from proxy.downloads.crew import Crew
from proxy.downloads.discarding import discarded
from proxy.downloads.extents import Extents
from proxy.downloads.fill import Fill, told
from proxy.downloads.left import Finds
from proxy.downloads.pace import Lessons
from proxy.downloads.part import Part
from proxy.downloads.partfile import discard, part_path
from proxy.downloads.pieces import Pieces
from proxy.downloads.transfer import Origin, Reader, Transfer
from proxy.downloads.turns import Turns
from proxy.downloads.unkept import Unkept
from proxy.errors import CisternError, NotKept, Overloaded, TransferFailed, UpstreamLied, UpstreamNotFound, refused
from proxy.events import BlobStored, NotStored
from proxy.ground import Ground
from proxy.log import logger
from proxy.oci import Digest
from proxy.rules import Place
from proxy.store.base import Link, OpenBlob

log = logger("downloads")
LEFT_MAX: Final = 4096
STORED_LATELY: Final = 4096  # far more than can be stored between a request's look in the store and its entry here


class Downloads:
    """The table of running transfers."""

    def __init__(self, ground: Ground, *, max_blob_bytes: Callable[[], int], max_ranges: Callable[[], int]) -> None:
        self._ground = ground
        self._max_blob_bytes = max_blob_bytes
        self._max_ranges = max_ranges
        self._lessons = Lessons()
        self._running: dict[Digest, Transfer] = {}
        self._replaced: set[Transfer] = set()  # those that run on for their readers, out of the table
        # Two misses that do not overlap would otherwise fetch twice (groupcache explains it in `load`). Who asks has
        # just looked in the store: only what was stored since has to be looked for again, which spares a disk job.
        self._stored_lately: LRUCache[Digest, None] = LRUCache(STORED_LATELY)
        self._left: LRUCache[Digest, frozenset[str]] = LRUCache(LEFT_MAX)  # who gave what failed transfers left behind
        self.finds = Finds()
        self._calm = Bell()
        self._turns = Turns(self._running, self._calm, ground.monotonic)
        self._unkept = Unkept(ground)

    def __len__(self) -> int:
        return len(self._running)

    @property
    def readers(self) -> int:
        """How many clients read running transfers now."""
        return sum(len(transfer.readers) for transfer in self._running.values())

    async def idle(self) -> None:
        """Wait until no transfer runs."""
        while self._running:
            await self._calm.wait()

    def is_running(self, digest: Digest) -> bool:
        """Whether a transfer of this digest runs now."""
        return digest in self._running

    def find(self, digest: Digest) -> Transfer | None:
        return self._running.get(digest)

    def join(self, digest: Digest, origin: Origin) -> Reader:
        """Enter the transfer of `digest` as a reader, started now if none runs. Plain: no await between look and entry.

        The caller has shown that `origin` holds the digest, unless it starts the transfer: then the answer shows it.
        """
        return Reader(self._enter(digest, origin), origin.source)

    async def fill(self, digest: Digest, origin: Origin) -> None:
        """Wait for the transfer of `digest` to its end, without reading; raises its error. Goes behind readers."""
        await self._enter(digest, origin).finished()

    def forbid(self, digest: Digest, error: CisternError) -> None:
        """End every transfer of `digest` for all who read it; nothing of it is kept."""
        for transfer in (*self._replaced, *self._running.values()):
            if transfer.digest == digest and transfer.work is not None:
                transfer.forbidden = error
                transfer.work.cancel()
                for reader in transfer.readers:
                    reader.drop(error)

    def _enter(self, digest: Digest, origin: Origin) -> Transfer:
        transfer = self._running.get(digest)
        if transfer is None or transfer.is_past:  # who comes too late for one that is not kept begins the next one
            if transfer is not None:
                self._replaced.add(transfer)
            transfer = self._running[digest] = Transfer(digest, origin, self._calm)
            transfer.work = self._ground.tasks.start(self._run(transfer), name=f"transfer {digest}")
        else:
            transfer.offer(origin)
        return transfer

    async def _run(self, transfer: Transfer) -> None:
        error: CisternError | None = Overloaded("the server is stopping", retry_after_s=5.0)
        try:
            await self._fill(transfer)
            error = None
        except asyncio.CancelledError:
            if transfer.forbidden is None:
                raise
            error = transfer.forbidden
        except CisternError as fault:
            error = told(transfer, fault)
        except OSError as fault:
            error = refused(fault)
        except Exception as fault:
            error = TransferFailed(transfer.upstream, "an internal error; the log has its trace")
            log.exception("a transfer failed", digest=str(transfer.digest), error=repr(fault))
        finally:
            if self._running.get(transfer.digest) is transfer:
                del self._running[transfer.digest]
            self._replaced.discard(transfer)
            transfer.end(error)
            self._calm.ring()
            if error is not None and transfer.unkept is None:
                self._not_stored(transfer, error)

    async def _fill(self, transfer: Transfer) -> None:
        held = await self._held(transfer) if transfer.digest in self._stored_lately else None
        if held is not None:
            transfer.show(held.file, Extents(held.size))
            transfer.on_release = held.close  # until then it is read, and nothing to evict
            transfer.verify()
            return
        started, hint = self._ground.monotonic(), transfer.origins[0].size_hint
        capacity, limit = self._ground.capacity, self._max_blob_bytes()
        try:
            claim = capacity.claim(hint or 0)
        except NotKept as refusal:
            late = await self._unkept.from_start(transfer, refusal, limit)
            if late is None:
                return
            claim = late
        allotment = Allotment(capacity, claim, lambda: transfer.size)
        try:
            if transfer.verified:  # it went by while room was made for it
                path = part_path(self._ground.parts, transfer.digest)
                try:
                    await self._keep(transfer, path, transfer.size or 0, started, allotment)
                finally:
                    capacity.left_part(path.name)
            else:
                await self._fetch(transfer, allotment, limit, started)
        finally:
            if transfer.on_release is None:
                allotment.release()

    async def _fetch(self, transfer: Transfer, allotment: Allotment, limit: int, started: float) -> None:
        """Fill a part, or go on past a disk that refuses it: the part loses its name at once, since that may soon be
        another transfer's, and its blocks once nobody reads it.
        """
        ground, name, part = self._ground, part_path(self._ground.parts, transfer.digest).name, None
        left, refusal = True, None
        try:
            try:
                await ground.capacity.took_part(name)
                part = await Part.open(ground.parts, transfer.digest, ground.threads, ground.tasks, ground.files)
                part.allotment = allotment
                part.left = self.finds.first(transfer.digest, part.left)
                fill = Fill(ground, part, transfer, self._turns, limit, self._crew)
                await self._doubt(part, transfer)
                try:
                    await fill.start()
                    transfer.passing = None
                    await fill.run()
                finally:
                    await fill.stop()
            except (OSError, NotKept) as error:
                left, refusal = False, error
                transfer.on_release = allotment.release
                if part is not None:
                    transfer.forget_behind(part.frontier)
                await discarded(part)
            else:
                transfer.verify()  # nobody waits for the commit
                left = False
                await self._keep(transfer, part.path, part.frontier, started, allotment)
                with suppress(OSError):  # the next part's opening drops it then
                    await part.forget_map()
        except (UpstreamLied, UpstreamNotFound):
            left = False
            await discarded(part)
            raise
        except asyncio.CancelledError:
            if transfer.forbidden is not None:
                left = False
                await discarded(part)
            raise
        finally:
            if part is not None:
                part.close()
            if left and part is not None and part.extents.total:
                self._left[transfer.digest] = frozenset(transfer.givers)
                ground.capacity.kept_part(name, part.extents.total)
            else:
                ground.capacity.left_part(name)
        if refusal is not None:
            await self._unkept.from_part(transfer, refusal, limit)

    async def _doubt(self, part: Part, transfer: Transfer) -> None:
        """Begin anew where a failed transfer left bytes of another upstream: were they wrong, the readers of an honest
        one would be dropped for it.
        """
        givers = self._left.pop(transfer.digest, None)
        if transfer.opened:  # what stands there is its own: its readers were given it from memory
            transfer.givers.add(transfer.upstream)
            return
        if not part.extents.total or givers is None:
            return
        if givers <= {transfer.upstream}:
            transfer.givers |= givers
        else:
            await part.renew()

    def _crew(self, part: Part, transfer: Transfer, pieces: Pieces) -> Crew:
        return Crew(self._ground, part, transfer, pieces, self._turns, self._lessons, self._max_ranges())

    async def _held(self, transfer: Transfer) -> OpenBlob | None:
        """What the store has, once the origin has shown that it holds it too. An unreadable blob is fetched again."""
        try:
            held = await self._ground.blobs.read(transfer.digest)
        except OSError as error:
            place = transfer.origins[0].source.place
            self._ground.events.publish(NotStored(place, transfer.digest, "unreadable", str(error)))
            return None
        if held is not None:
            try:
                if not await held.is_whole():
                    held.close()
                    return None
                await self._prove(transfer)
            except BaseException:
                held.close()
                raise
        return held

    async def _prove(self, transfer: Transfer) -> None:
        """Show by a link or a HEAD that an origin holds the blob: whoever stored it may have been another place."""
        while True:
            source, digest = transfer.origins[0].source, transfer.digest
            if await self._ground.records.link(source.place, digest) is not None:
                return
            try:
                size = await self._ground.upstreams.head_blob(source, digest)
            except CisternError as error:
                if len(transfer.origins) == 1:
                    raise
                transfer.dismiss(source, told(transfer, error))
            else:
                await self._link(source.place, digest, size or 0)
                return

    async def _link(self, place: Place, digest: Digest, size: int) -> None:
        try:
            await self._ground.records.save_links([Link(place, digest, None, size)])
        except OSError as error:
            self._ground.events.publish(NotStored(place, digest, "disk", str(error)))

    async def _keep(self, transfer: Transfer, path: Path, size: int, started: float, allotment: Allotment) -> None:
        """Hand the verified part to the store. A disk that refuses is no fault of the readers: they have all bytes."""
        place = transfer.origins[0].source.place
        try:
            await self._ground.blobs.adopt(path, transfer.digest, size)
            allotment.release()  # the store's folder takes it from here: no await between the two
            self._stored_lately[transfer.digest] = None
            if transfer.readers and (held := await self._ground.blobs.read(transfer.digest)) is not None:
                transfer.on_release = held.close  # they read on: it is nothing to evict
            await self._ground.records.save_links([Link(place, transfer.digest, None, size)])
        except OSError as error:
            transfer.unkept = self._ground.capacity.refused(error)
            self._ground.events.publish(NotStored(place, transfer.digest, transfer.unkept, str(error)))
            with suppress(OSError):
                await self._ground.threads.disk(discard, path)
            return
        self._ground.events.publish(BlobStored(place, transfer.digest, size, self._ground.monotonic() - started))

    def _not_stored(self, transfer: Transfer, error: CisternError) -> None:
        source = transfer.origins[0].source
        self._ground.events.publish(NotStored(source.place, transfer.digest, error.reason, str(error), source))
