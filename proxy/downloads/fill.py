"""One transfer's work: receive a blob into its part, through cuts and lies, verify it, and hand it to the store.

Runs in the room's own task; its only word to the readers is the Transfer. Decisions:
a cut after the first byte is resumed at the exact offset; resumes that gained bytes are free, three in a row without
gain end it; a Range answer that lies is asked again from zero and the known bytes skipped; a wrong digest or size
after a splice or on a kept part means one fetch from zero before the upstream is blamed; a bad origin gives way to the
next alternate.
"""

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final

from proxy.downloads.appender import Appender
from proxy.downloads.part import Part
from proxy.downloads.transfer import Transfer
from proxy.downloads.turns import Turns
from proxy.errors import (
    BlobUnknown,
    CisternError,
    Failure,
    UpstreamDenied,
    UpstreamLied,
    UpstreamNotFound,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
    WrongDigest,
)
from proxy.events import IntegrityFailed, TransferResumed
from proxy.ground import Ground
from proxy.rules import Source
from proxy.upstream.base import BlobBody, Priority

FRUITLESS_MAX: Final = 3
DRIP: Final = 64 << 10  # bytes: an answer that fell silent with less gained nothing, else a drip would be free for ever
PAUSE_MAX_S: Final = 10.0  # an upstream that wants to be left alone for longer ends the transfer: clients hang on it
PROBE_MAX_S: Final = 45.0  # but where the breaker has opened, the first probe is due in 30 to 36 s by default
OUTAGES: Final = (UpstreamUnavailable, UpstreamTimeout, UpstreamThrottled)


class GaveWay(Exception):
    """A transfer without readers hung up, for clients to go first."""


def told(transfer: Transfer, error: CisternError) -> CisternError:
    """The error as the readers of the present origin hear it: a missing blob is named."""
    if not isinstance(error, UpstreamNotFound):
        return error
    source = transfer.origins[0].source
    missing = BlobUnknown(f"{source.upstream} has no blob {transfer.digest} in {source.repository}")
    missing.__cause__ = error
    return missing


def _patience_s(error: CisternError) -> float:
    """How long an upstream may want to be left alone while readers hang on a body that has begun: it cannot be had
    elsewhere any more.
    """
    is_left_alone = isinstance(error, UpstreamUnavailable) and error.failure is Failure.LEFT_ALONE
    return PROBE_MAX_S if is_left_alone else PAUSE_MAX_S


class Fill:
    """Fills one transfer's part until it is complete and verified. The part is the caller's to open and close."""

    def __init__(
        self,
        ground: Ground,
        part: Part,
        transfer: Transfer,
        turns: Turns,
        max_blob_bytes: int,
    ) -> None:
        self._ground = ground
        self._max_blob_bytes = max_blob_bytes
        self._transfer = transfer
        self._turns = turns
        self._spliced = False  # bytes here, or the size, are of more than one answer
        self._asked_again = False  # this origin had its one fetch from zero after a splice
        self._ask_ranges = True
        self.part = part

    async def start(self) -> None:
        """Take over what an earlier process left of the part. OSError: the disk refuses."""
        transfer, kept = self._transfer, self.part.frontier
        if kept:
            self._spliced = True
            # At least one byte is asked for, so that the answer shows the origin to hold the blob.
            hint = transfer.origins[0].size_hint
            await self.part.rewind(max(0, min(kept, kept if hint is None else hint) - 1))
        transfer.show(self.part.share(), self.part.extents)

    async def run(self) -> None:
        """Receive and verify; on return the part is whole and its digest confirmed. Raises UpstreamFault or OSError."""
        while True:
            try:
                await self._receive_through_cuts()
                await self._confirm()
            except (UpstreamLied, UpstreamDenied, UpstreamNotFound) as error:
                if not await self._try_again(error):
                    raise
            except OUTAGES as error:
                if not self._go_elsewhere(error):
                    raise
            else:
                return

    def _go_elsewhere(self, error: CisternError) -> bool:
        """Whether an alternate takes over from an origin that is away. One that had answered keeps its readers."""
        transfer = self._transfer
        if len(transfer.origins) == 1:
            return False
        self._spliced = self._spliced or transfer.opened or self.part.frontier > 0
        self._asked_again, self._ask_ranges = False, True
        if transfer.opened:
            transfer.origins.popleft()
        else:
            transfer.dismiss(transfer.origins[0].source.place, error)
        return True

    async def _confirm(self) -> None:
        if await self.part.matches():
            return
        transfer = self._transfer
        where = "resume" if self._spliced else "upstream"
        self._ground.events.publish(IntegrityFailed(where, transfer.digest, transfer.origins[0].source.place))
        raise WrongDigest(transfer.upstream, f"its bytes do not hash to {transfer.digest}")

    async def _try_again(self, error: CisternError) -> bool:
        """Whether one more fetch is due: from zero after a splice, or from the next alternate; prepares it."""
        transfer = self._transfer
        if isinstance(error, UpstreamLied) and self._spliced and not self._asked_again:
            self._asked_again = True
        elif len(transfer.origins) > 1:
            transfer.dismiss(transfer.origins[0].source.place, told(transfer, error))
            self._asked_again, self._ask_ranges = False, True
        else:
            return False
        self._spliced = False
        transfer.restart(error)
        await self.part.rewind(0)
        return True

    async def _receive_through_cuts(self) -> None:
        fruitless = 0
        while True:
            before = self.part.frontier
            try:
                return await self._receive()
            except GaveWay:
                self._spliced = True
                continue
            except OUTAGES as error:
                if not self._transfer.opened:
                    raise  # nothing was promised yet: the client gets the true status
                least = DRIP if isinstance(error, UpstreamTimeout) else 0
                fruitless = 0 if self.part.frontier - before > least else fruitless + 1
                if fruitless >= FRUITLESS_MAX or (error.retry_after_s or 0.0) > _patience_s(error):
                    raise
                if fruitless:
                    # Full jitter: many transfers cut by one fault must not come back in step.
                    await self._ground.sleep(self._ground.rng() * 0.5 * 2**fruitless + (error.retry_after_s or 0.0))
            self._spliced = self._spliced or self.part.frontier > 0
            self._ground.events.publish(
                TransferResumed(self._transfer.upstream, self._transfer.digest, self.part.frontier)
            )

    async def _receive(self) -> None:
        """One answer of the upstream, to its end. Raises UpstreamUnavailable when that came too early."""
        await self._turns.turn(self._transfer)
        transfer, origin = self._transfer, self._transfer.origins[0]
        async with AsyncExitStack() as stack:
            body = await self._ask(stack, origin.source)
            size = self._agreed_size(body, origin.size_hint)
            if not transfer.opened:
                transfer.open(size)
            await self._pump(body)
        if size is not None and self.part.frontier < size:
            missing = size - self.part.frontier
            raise UpstreamUnavailable(transfer.upstream, f"the body ended {missing} bytes short of {size}")

    async def _ask(self, stack: AsyncExitStack, source: Source) -> BlobBody:
        """The body from the frontier on. A Range answer that lies (another start, 416) is asked again from zero."""
        offset = self.part.frontier if self._ask_ranges else 0
        transfer, upstreams = self._transfer, self._ground.upstreams

        def body(offset: int) -> AbstractAsyncContextManager[BlobBody]:
            priority = Priority.CLIENT if transfer.readers else Priority.BACKGROUND
            return upstreams.get_blob(
                source, transfer.digest, offset=offset, priority=priority, is_urgent=lambda: bool(transfer.readers)
            )

        try:
            return await stack.enter_async_context(body(offset))
        except UpstreamLied:
            if not offset:
                raise
            self._ask_ranges = False
        return await stack.enter_async_context(body(0))

    def _agreed_size(self, body: BlobBody, hint: int | None) -> int | None:
        """The blob's size, if anybody told it; raises UpstreamLied when what is told does not agree."""
        transfer = self._transfer
        told = {size for size in (body.size, hint, transfer.size if transfer.opened else None) if size is not None}
        if len(told) > 1:
            raise UpstreamLied(
                transfer.upstream, f"the blob's size is told as {' and as '.join(map(str, sorted(told)))}"
            )
        size = told.pop() if told else None
        if size is not None and size > self._max_blob_bytes:
            raise UpstreamLied(transfer.upstream, f"a blob of {size} bytes is larger than limits.max_blob")
        if body.start > self.part.frontier:
            raise UpstreamLied(transfer.upstream, f"it answered from byte {body.start}, asked for {self.part.frontier}")
        return size

    async def _pump(self, body: BlobBody) -> None:
        """Receive and write side by side: while one batch is written, and one hashed, the next one is received."""
        skip = self.part.frontier - body.start
        can_go_on = skip == 0  # else it ignores ranges: to hang up would mean to begin from zero each time
        limit = self._transfer.size if self._transfer.size is not None else self._max_blob_bytes
        appender = Appender(self.part, self.part.frontier, self._ground.tasks, self._grown)
        try:
            async for chunk in body.chunks:
                fresh, skip = chunk[skip:], max(0, skip - len(chunk))
                if not fresh:
                    continue
                if appender.reached + len(fresh) > limit:
                    raise UpstreamLied(self._transfer.upstream, f"the body is longer than {limit} bytes")
                self._transfer.givers.add(self._transfer.upstream)
                await appender.feed(fresh)
                if can_go_on and appender.reached < limit and self._turns.must_yield(self._transfer):
                    raise GaveWay
        finally:
            await appender.flush()  # a cut upstream keeps what it gave: those bytes are not fetched again

    def _grown(self) -> None:
        self._transfer.grow(self.part.extents)
