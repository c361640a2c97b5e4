"""Transfers that the disk has no room for, or refuses: their bodies pass by their readers, on the same connections.

Decides where a pass begins and what becomes of it. While room is being made, a body goes on in the ring; if room comes
before the ring has dropped its first byte, it is kept after all. A disk that refuses in mid-transfer leaves what the
part holds to those behind, and the pass goes on from its end. A reader that was left behind gets a pass of its own.
"""

import asyncio
import errno
import io
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from proxy.downloads.bell import Bell
from proxy.downloads.fill import OUTAGES, told
from proxy.downloads.part import SYNC_PATIENCE
from proxy.downloads.partfile import part_path, write_part
from proxy.downloads.passing import Pass, Promoted
from proxy.downloads.ring import Hasher, Ring, ring_size
from proxy.downloads.transfer import Origin, Reader, Transfer
from proxy.errors import CisternError, NotKept, TransferFailed, UpstreamDenied, UpstreamFault, UpstreamNotFound
from proxy.events import NotStored
from proxy.ground import Ground
from proxy.ledger import Claim

READ: Final = 1 << 20
READ_BACK_WITHIN_S: Final = 10.0  # a part that takes longer to read back is fetched again instead
UNDECIDED: Final = "making_room"
MAY_COME: Final = frozenset({"no_room", "starting"})  # refusals that eviction or the first count may undo


@dataclass(frozen=True, slots=True)
class Beginning:
    """Where a pass begins, and the hash of everything before."""

    begin: int
    hasher: Hasher


class Unkept:
    """Runs the passes of the downloads room, in the transfers' own tasks."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._running = 0  # passes, shared and alone

    async def from_start(self, transfer: Transfer, refusal: NotKept, limit: int) -> Claim | None:
        """Pass a body by that was refused before its first byte. A claim: there is room after all, and what the ring
        holds stands in the part file now. None: it went by. Raises UpstreamFault; NotKept when nobody reads it.
        """
        hint = transfer.origins[0].size_hint or 0
        if refusal.why not in MAY_COME:
            self._tell(transfer, refusal)
            if not transfer.readers:
                raise refusal
            await self._run(transfer, self._pass(transfer, Beginning(0, transfer.digest.hasher()), limit), limit)
            return None
        claim = self._ground.tasks.start(self._ground.capacity.wait(hint), name="wait for room", report=False)
        is_used = False
        try:
            while not transfer.readers:
                if claim.done():
                    is_used = True
                    return claim.result()
                await self._read_or_done(transfer, claim)
            is_used = await self._pass_or_keep(transfer, claim, refusal, limit)
            return claim.result() if is_used else None
        finally:
            if not is_used:  # room that was found, or is found in this very turn, goes back
                claim.cancel()
                claim.add_done_callback(_give_back)

    async def _pass_or_keep(
        self, transfer: Transfer, claim: "asyncio.Task[Claim]", refusal: NotKept, limit: int
    ) -> bool:
        """Pass a body by while room for it is made; whether there was some in time, and its part stands."""
        transfer.unkept = UNDECIDED
        passing = self._pass(transfer, Beginning(0, transfer.digest.hasher()), limit)
        passing.claim = claim
        try:
            with suppress(Promoted):
                await self._run(transfer, passing, limit)
        except (UpstreamFault, asyncio.CancelledError):
            transfer.unkept = None  # the room tells of it: it is not for want of room
            raise
        shared = transfer.passing or passing
        refused = await self._settle(transfer, shared.ring, claim) if shared.ring.is_whole else refusal
        if refused is None:
            transfer.unkept = None
            return True
        self._tell(transfer, refused)
        _give_back(claim)
        if not transfer.verified:
            shared.claim = None
            await self._run(transfer, shared, limit)
        return False

    async def _read_or_done(self, transfer: Transfer, claim: "asyncio.Task[Claim]") -> None:
        """Wait until somebody reads, or it is known whether there is room: hydration alone has no need to stream."""

        async def somebody_reads() -> None:
            while not transfer.readers:
                await transfer.calm.wait()

        reading = self._ground.tasks.start(somebody_reads(), name="wait for a reader", report=False)
        try:
            await asyncio.wait([reading, claim], return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()

    async def _settle(self, transfer: Transfer, ring: Ring, claim: "asyncio.Task[Claim]") -> NotKept | None:
        """Wait for the room and put the ring into the part file; the refusal if there is none, or the disk refuses."""
        await asyncio.wait([claim])
        if (error := claim.exception()) is not None:
            return error if isinstance(error, NotKept) else NotKept("no_room", str(error))
        path, capacity, size = part_path(self._ground.parts, transfer.digest), self._ground.capacity, transfer.size
        if size is not None:  # it was waited for by what was known then, which may have been nothing
            try:
                capacity.extend(claim.result(), size)
            except NotKept as refused:
                return refused
        is_left = True
        try:
            await capacity.took_part(path.name)
            await self._ground.threads.soon(
                write_part, path, [piece.data for piece in ring.pieces], patience=SYNC_PATIENCE
            )
            is_left = False
        except OSError as refused:
            return NotKept(capacity.refused(refused), str(refused))
        finally:
            if is_left:
                capacity.left_part(path.name)
        return None

    async def from_part(self, transfer: Transfer, refusal: OSError | NotKept, limit: int) -> None:
        """Go on past a disk that refused, from where the file that is read ends; its name is not this transfer's any
        more. Raises UpstreamFault; NotKept when nobody reads.
        """
        if isinstance(refusal, OSError):
            refusal = NotKept(self._ground.capacity.refused(refusal), refusal.strerror or str(refusal))
        self._tell(transfer, refusal)
        if not transfer.readers:
            raise refusal
        beginning = Beginning(0, transfer.digest.hasher())
        if transfer.frontier:
            reading = self._ground.threads.rehash(_hashed, transfer.share(), transfer.frontier, beginning.hasher.copy())
            try:
                async with asyncio.timeout(READ_BACK_WITHIN_S):
                    beginning = await reading
            except OSError:  # nobody can judge any more what was sent of it: those who took none begin anew
                transfer.forget_behind(0)
        await self._run(transfer, self._pass(transfer, beginning, limit), limit)

    def _tell(self, transfer: Transfer, refusal: NotKept) -> None:
        transfer.unkept = refusal.why
        place = transfer.origins[0].source.place
        self._ground.events.publish(NotStored(place, transfer.digest, refusal.why, str(refusal)))

    def _pass(self, transfer: Transfer, beginning: Beginning, limit: int) -> Pass:
        """The pass that all readers of a transfer share; it is theirs from now on."""
        transfer.lone = lambda reader, offset: self._alone(transfer, reader, offset, beginning, limit)
        origin = transfer.origins[0]
        passing = transfer.passing = Pass(
            self._ground,
            transfer.digest,
            origin.source,
            beginning.begin,
            beginning.hasher.copy(),
            size=transfer.size if transfer.opened else origin.size_hint,
            limit=limit,
            bell=transfer.bell,
            opened=None if transfer.opened else transfer.open,
            ring=self._ring_size,
        )
        passing.expected = lambda: sum(
            reader.own is None and reader not in passing.takers for reader in transfer.readers
        )
        transfer.bell.ring()
        return passing

    async def _run(self, transfer: Transfer, passing: Pass, limit: int) -> None:
        """Run a shared pass to its end, past origins that do not hold the blob or are away. Raises Promoted."""
        while True:
            try:
                await self._while_read(transfer, passing)
            except (UpstreamDenied, UpstreamNotFound, *OUTAGES) as error:
                if transfer.opened or len(transfer.origins) == 1:
                    raise
                transfer.dismiss(transfer.origins[0].source, told(transfer, error))
                claim = passing.claim
                passing = self._pass(transfer, Beginning(0, transfer.digest.hasher()), limit)
                passing.claim = claim
            else:
                transfer.verify(passing.ring.stop)
                return

    async def _while_read(self, transfer: Transfer, passing: Pass) -> None:
        """Run it as long as anybody reads of it. Who comes while it is being stopped has it run on."""
        while True:
            work = self._ground.tasks.start(passing.run(), name=f"pass {transfer.digest}", report=False)
            passing.stop = work.cancel
            self._running += 1
            try:
                await asyncio.wait([work])
            finally:
                self._running -= 1
                work.cancel()
            if not work.cancelled():
                return work.result()
            if all(reader.own is not None for reader in transfer.readers):
                raise NotKept(transfer.unkept or "no_room", "nobody reads it any more")

    def _alone(self, transfer: Transfer, reader: Reader, offset: int, beginning: Beginning, limit: int) -> Pass:
        """A pass for one reader that the shared one left behind. TransferFailed: it took what no hash can judge now."""
        origin = _origin_of(transfer, reader)
        if reader.trail is not None and reader.trail[0] == offset:
            beginning = Beginning(*reader.trail)
        elif reader.taken and beginning.begin != offset:
            raise TransferFailed(transfer.upstream, f"what was sent up to byte {offset} cannot be judged any more")
        elif beginning.begin > offset:
            beginning = Beginning(0, transfer.digest.hasher())
        alone = Pass(
            self._ground,
            transfer.digest,
            origin.source,
            beginning.begin,
            beginning.hasher.copy(),
            size=transfer.size,
            limit=limit,
            bell=Bell(),
            opened=None,
            ring=self._ring_size,
        )
        work = self._ground.tasks.start(
            self._to_its_end(alone, transfer.upstream), name=f"pass {transfer.digest} alone"
        )
        alone.stop = work.cancel
        return alone

    async def _to_its_end(self, alone: Pass, upstream: str) -> None:
        """Run a pass that nobody waits for: its reader hears how it ended."""
        error: CisternError | None = TransferFailed(upstream, "the server is stopping")
        self._running += 1
        try:
            await alone.run()
            error = None
        except CisternError as fault:
            error = fault
        finally:
            self._running -= 1
            alone.error = error
            if error is not None:
                alone.ring.pieces.clear()  # a cancelled task's traceback would keep them until a collector comes by
            alone.bell.ring()

    def _ring_size(self) -> int:
        return ring_size(self._running)


def _give_back(claim: "asyncio.Task[Claim]") -> None:
    """Nobody will fill the room that was waited for."""
    if claim.done() and not claim.cancelled() and claim.exception() is None:
        claim.result().release()


def _origin_of(transfer: Transfer, reader: Reader) -> Origin:
    """The origin that a reader's own client named, if it is one still."""
    return next((known for known in transfer.origins if known.source == reader.source), transfer.origins[0])


def _hashed(file: io.FileIO, length: int, hasher: Hasher) -> Beginning:
    """The first `length` bytes of a part, hashed; closes `file`. OSError: they cannot be read back."""
    with file:
        offset = 0
        while offset < length:
            data = os.pread(file.fileno(), min(READ, length - offset), offset)
            if not data:
                raise OSError(errno.EIO, "the part is shorter than what was written to it")
            hasher.update(data)
            offset += len(data)
    return Beginning(length, hasher)
