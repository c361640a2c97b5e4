"""One transfer in flight, as readers see it: a growing file, how far it may be sent, and how it ended.

A transfer knows nothing of clients; a reader that is slow, late or gone changes nothing for it. It ends in one of two
ways, told to every reader at once: `verified`, or `error`.
Invariant: bytes within HOLD of the end leave only once the digest is confirmed, so no wrong body ever completes.
"""

import asyncio
import io
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from proxy.downloads.bell import Bell
from proxy.downloads.extents import Extents
from proxy.downloads.passing import PATIENCE_S, Pass
from proxy.downloads.progress import lasting_end
from proxy.downloads.ring import Hasher, Piece
from proxy.errors import CisternError, TransferFailed
from proxy.oci import Digest
from proxy.rules import Source
from proxy.store.base import HOLD


@dataclass(frozen=True, slots=True)
class Origin:
    """A place that holds the blob, or is about to show it. `size_hint` is what a manifest there says, in bytes."""

    source: Source
    size_hint: int | None = None


class Transfer:
    """The state of one transfer. Only the downloads room changes it; each change rings the bell."""

    def __init__(self, digest: Digest, origin: Origin, calm: Bell) -> None:
        self.digest = digest
        self.calm = calm  # the room's: rings when a reader comes or goes
        self.slice_ends = 0.0  # until then it need not give way to clients (monotonic seconds)
        self.origins: deque[Origin] = deque([origin])
        self.readers: set[Reader] = set()
        self.givers: set[str] = set()  # the upstreams whose bytes are in its part
        self.bell = Bell()
        self.opened = False  # the upstream answered, or the store had the blob: headers may leave
        self.size: int | None = None
        self.extents = Extents()  # what can be read of the file
        self.verified = False
        self.error: CisternError | None = None
        self.work: asyncio.Task[None] | None = None  # the room's task that fills it
        self.forbidden: CisternError | None = None  # why it must end, if it must
        self.asked: Callable[[], None] = lambda: None  # called when a reader has to wait
        self.ended = False  # the room is done with it: adopted, or failed
        self.unkept: str | None = None  # why it is not kept, if it is not
        self.passing: Pass | None = None  # what its readers share where no file is filled
        self.lone: Callable[[Reader, int], Pass] | None = None  # a pass for one that the shared one left behind
        self.on_release: Callable[[], object] | None = None  # called once nobody can read its file any more
        self._file: io.FileIO | None = None

    @property
    def upstream(self) -> str:
        return self.origins[0].source.upstream

    @property
    def settled(self) -> bool:
        return self.verified or self.error is not None

    @property
    def frontier(self) -> int:
        return self.extents.frontier

    @property
    def is_past(self) -> bool:
        """Whether who comes now would find its beginning gone."""
        return self.passing is not None and not self.passing.ring.is_whole

    def releasable(self, offset: int) -> int:
        """Where the bytes that may leave now end, from `offset` on; `offset` itself if none may."""
        if self.verified:
            return self.extents.end_of(offset)
        size = self.size if self.size is not None else max(self.frontier, self.passing.ring.stop if self.passing else 0)
        return max(offset, min(lasting_end(self.extents, offset), size - HOLD))

    def offer(self, origin: Origin) -> None:
        """Add an alternate, asked when the present origin turns out to be wrong or to refuse."""
        if all(known.source != origin.source for known in self.origins):
            self.origins.append(origin)

    def show(self, file: io.FileIO, extents: Extents) -> None:
        """Give the file to read from, in an earlier one's place; it is closed at the end, once the last reader left."""
        if self._file is not None:
            self._file.close()
        self._file, self.extents = file, extents

    def open(self, size: int | None) -> None:
        """The upstream answered. Readers whose headers left with another size can never be served."""
        self.opened, self.size = True, size
        for reader in self.readers:
            if reader.told_size and reader.size != size:
                reader.error = TransferFailed(self.upstream, f"the size {reader.size} was a lie, it is {size}")
        self.bell.ring()

    def forget_behind(self, frontier: int) -> None:
        """Nothing from `frontier` on is read from the file any more: whoever took bytes there is dropped, unjudged."""
        for reader in self.readers:
            if reader.reached > frontier:
                reader.error = TransferFailed(self.upstream, "the disk refuses the rest of what was read ahead")
        self.extents.keep(frontier)
        self.bell.ring()

    def grow(self, extents: Extents) -> None:
        """More of the file can be read: all of `extents`, which may go on growing."""
        self.extents = extents
        self.bell.ring()

    def dismiss(self, source: Source, error: CisternError) -> None:
        """Give up the present origin: its own readers end with `error`, since only another one holds the blob now."""
        self.origins.popleft()
        for reader in self.readers:
            if reader.source == source:
                reader.error = error
        self.bell.ring()

    def restart(self, error: CisternError) -> None:
        """Go back to before the answer: its size binds nobody. Readers that already took bytes end with `error`."""
        self.extents, self.opened, self.size = Extents(), False, None
        for reader in self.readers:
            if reader.taken:
                reader.error = error
        self.bell.ring()

    def verify(self, size: int | None = None) -> None:
        """The digest is confirmed: every byte may leave. `size` is given where no file holds all of them."""
        self.verified, self.opened = True, True
        self.size = self.frontier if size is None else size
        self.bell.ring()

    def end(self, error: CisternError | None) -> None:
        """The room is done with it; `error` unless it was verified before."""
        self.ended = True
        if not self.verified:
            self.error = error
        self.bell.ring()
        self.release()

    async def finished(self) -> None:
        """Wait for the end without reading; raises the transfer's error."""
        while not self.ended:
            await self.bell.wait()
        if self.error is not None:
            raise self.error

    def release(self) -> None:
        # Not before the end: until the blob is adopted a new reader may still join, and needs the file.
        if not self.ended or self.readers:
            return
        if self.passing is not None:
            self.passing.ring.pieces.clear()  # now: a cycle would keep its megabytes until a collector comes by
        if self._file is not None:
            self._file.close()
            self._file = None
        if self.on_release is not None:
            self.on_release()
            self.on_release = None

    def share(self) -> io.FileIO:
        """A file of its own for one reader: it outlives renaming and deletion, and is the reader's to close."""
        if self._file is None:
            raise RuntimeError("a reader asked for the file before the transfer opened")
        return io.FileIO(os.dup(self._file.fileno()), "rb")


class Reader:
    """One client's view of a transfer, entered at creation. Close it always."""

    def __init__(self, transfer: Transfer, source: Source) -> None:
        self.transfer = transfer
        self.source = source  # whom its client asked: what may not be shown there, it does not get
        self.error: CisternError | None = None
        self.told_size = False  # headers may have left with `size`
        self.size: int | None = None
        self.waits_at: int | None = None  # the offset at which it waits for bytes now
        self.taken = False  # bytes may have left: a restart from zero would splice
        self.reached = 0  # no byte from there on has left
        self.own: Pass | None = None  # where the shared pass has left it behind
        self.at = 0  # where it stands in a pass
        self.patience_s = PATIENCE_S
        self.trail: tuple[int, Hasher] | None = None  # up to where it took of a pass, and the hash there
        self._piece: Piece | None = None
        self._file: io.FileIO | None = None
        transfer.readers.add(self)
        transfer.calm.ring()

    async def opened(self) -> int | None:
        """Wait until headers may leave: the blob's size in bytes, None if the upstream did not tell it.

        Raises the transfer's own error while nothing was sent, so that the client gets its true status. A blob of at
        most HOLD bytes waits for its digest here: a wrong one is a true 502.
        """
        transfer = self.transfer
        while True:
            if (error := self.error or transfer.error) is not None:
                raise error
            small = transfer.size is not None and transfer.size <= HOLD
            if transfer.verified or (transfer.opened and not small):
                self.told_size, self.size = True, transfer.size
                return transfer.size
            await transfer.bell.wait()

    async def whole(self) -> int:
        """Wait until the blob is verified; its size in bytes. Raises the transfer's error."""
        while self.error is not None or not self.transfer.verified:
            if (error := self.error or self.transfer.error) is not None:
                raise error
            await self.transfer.bell.wait()
        return self.transfer.size or 0

    async def ready(self, offset: int) -> int:
        """Wait until bytes at `offset` may leave; returns where they end for now, or `offset` itself at the blob's end.

        Raises TransferFailed when they never will: the client's connection must then be dropped.
        """
        transfer, self._piece = self.transfer, None
        while True:
            passing = self.own or transfer.passing
            error = self.error or (transfer.error if self.own is None else self.own.error)
            if error is not None:
                raise TransferFailed(transfer.upstream, f"the transfer ended early: {error}") from error
            end = transfer.releasable(offset)
            if end <= offset and passing is not None:
                passing, end = self._stand(passing, offset)
            if end > offset:
                self.taken, self.reached = True, max(self.reached, end)
                return end
            if transfer.verified if passing is None else passing.is_over(offset):
                return offset
            self.waits_at = offset
            transfer.asked()
            try:
                await (transfer if passing is None else passing).bell.wait()
            finally:
                self.waits_at = None

    def _stand(self, passing: Pass, offset: int) -> tuple[Pass, int]:
        """Stand at `offset` in a pass, or in one of its own if that has gone by; the pass, and where bytes end now."""
        if self.transfer.extents.end_of(offset) == offset < passing.ring.start and self.transfer.lone is not None:
            self._leave()
            passing = self.own = self.transfer.lone(self, offset)
        self.at = offset
        passing.takers.add(self)
        passing.moved.ring()
        if not passing.ring.start <= offset < passing.releasable:
            return passing, offset
        self._piece = passing.ring.piece(offset)
        return passing, min(self._piece.stop, passing.releasable)

    def memory(self, offset: int, end: int) -> memoryview | None:
        """The bytes that `ready` just found, where no file holds them: perhaps fewer than up to `end`."""
        piece = self._piece
        if piece is None:
            return None
        self.trail = (piece.stop, piece.after)
        return memoryview(piece.data)[offset - piece.start : end - piece.start]

    def drop(self, error: CisternError) -> None:
        """Nothing more leaves to this reader, whatever it reads from."""
        self.error = error
        if self.own is not None:
            self.own.bell.ring()

    def _leave(self) -> None:
        """Take nothing more of the pass; one that nobody takes of is at its end."""
        shared = self.transfer.passing
        for passing in (self.own, shared):
            if passing is not None:
                passing.takers.discard(self)
                passing.moved.ring()
        if self.own is not None:
            self.own.stop()
        elif shared is not None and not any(reader.own is None for reader in self.transfer.readers - {self}):
            shared.stop()

    def failed(self, error: OSError) -> None:
        """Reading met `error`: this reader is dropped; the transfer writes, and hears of its own disk errors."""

    @property
    def file(self) -> io.FileIO:
        """The file to send from, opened at first use: only an opened transfer has one."""
        if self._file is None:
            self._file = self.transfer.share()
        return self._file

    def close(self) -> None:
        self._leave()
        self.transfer.readers.discard(self)
        if self._file is not None:
            self._file.close()
            self._file = None
        self.transfer.calm.ring()
        self.transfer.release()
