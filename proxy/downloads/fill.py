"""One transfer's work: receive a blob into its part, through cuts and lies, verify it, and hand it to the store.

Runs in the room's own task; its only word to the readers is the Transfer. Decisions:
a cut after the first byte is resumed at the exact offset; resumes that gained bytes are free, three in a row without
gain end it; a Range answer that lies is asked again from zero and the known bytes skipped; a wrong digest or size
after a splice or on a kept part means one fetch from zero before the upstream is blamed; a bad origin gives way to the
next alternate.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final

from proxy.downloads.crew import Crew
from proxy.downloads.part import Part
from proxy.downloads.pieces import Claim, Pieces
from proxy.downloads.stream import Answer, GaveWay, receive
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
        crew: Callable[[Part, Transfer, Pieces], Crew],
    ) -> None:
        self._ground = ground
        self._max_blob_bytes = max_blob_bytes
        self._transfer = transfer
        self._turns = turns
        self._spliced = False  # bytes here, or the size, are of more than one answer
        self._asked_again = False  # this origin had its one fetch from zero after a splice
        self._ask_ranges = True
        self.part = part
        self._pieces = Pieces(lambda: part.extents)
        self._crew = crew(part, transfer, self._pieces)
        transfer.asked = self._crew.look

    async def start(self) -> None:
        """Take over what an earlier process left of the part. OSError: the disk refuses."""
        transfer, kept = self._transfer, self.part.extents
        if kept.stop:
            self._spliced = True
            # At least one byte is asked for, so that the answer shows the origin to hold the blob. In an opened
            # transfer it has shown that, and readers have taken the bytes of this part: not one of them may come anew.
            hint = transfer.origins[0].size_hint
            if hint is not None and kept.stop > hint and not transfer.opened:
                await self.part.renew()  # one of the two is wrong, and no byte of it is worth a guess
            elif kept.stop == kept.frontier and not transfer.opened:
                await self.part.rewind(kept.frontier - 1)
        transfer.show(self.part.share(), self.part.extents)

    async def run(self) -> None:
        """Receive and verify; on return the part is whole and its digest confirmed. Raises UpstreamFault or OSError."""
        while True:
            try:
                await self._receive_through_cuts()
                await self._confirm()
            except (UpstreamLied, UpstreamDenied, UpstreamNotFound) as error:
                await self._crew.stop()
                self._spliced = self._spliced or self._crew.has_helped
                if not await self._try_again(error):
                    raise
            except OUTAGES as error:
                await self._crew.stop()
                if not self._go_elsewhere(error):
                    raise
            else:
                return

    async def stop(self) -> None:
        """Nothing of this is at work any more when it returns; called always, also after a cancellation."""
        self._crew.settle()  # a reader that waits asks for more hands, also after the end
        await self._crew.stop()

    def _go_elsewhere(self, error: CisternError) -> bool:
        """Whether an alternate takes over from an origin that is away. One that had answered keeps its readers."""
        transfer = self._transfer
        if len(transfer.origins) == 1:
            return False
        self._spliced = self._spliced or transfer.opened or self.part.extents.total > 0
        self._asked_again, self._ask_ranges = False, True
        if transfer.opened:
            transfer.origins.popleft()
        else:
            transfer.dismiss(transfer.origins[0].source, error)
        return True

    async def _confirm(self) -> None:
        if await self.part.matches():
            return
        transfer = self._transfer
        where = "resume" if self._spliced or self._crew.has_helped else "upstream"
        self._ground.events.publish(IntegrityFailed(where, transfer.digest, transfer.origins[0].source.place))
        raise WrongDigest(transfer.upstream, f"its bytes do not hash to {transfer.digest}")

    async def _try_again(self, error: CisternError) -> bool:
        """Whether one more fetch is due: from zero after a splice, or from the next alternate; prepares it."""
        transfer = self._transfer
        if isinstance(error, UpstreamLied) and self._spliced and not self._asked_again:
            self._asked_again = True
        elif len(transfer.origins) > 1:
            transfer.dismiss(transfer.origins[0].source, told(transfer, error))
            self._asked_again, self._ask_ranges = False, True
        else:
            return False
        self._spliced = False
        self._crew.settle()  # once wrong is enough: one answer is easier to judge than many
        self._crew.has_helped = False
        self._pieces.size = None
        transfer.restart(error)
        await self.part.renew()
        transfer.show(self.part.share(), self.part.extents)
        return True

    async def _receive_through_cuts(self) -> None:
        fruitless = 0
        while (claim := await self._next_claim()) is not None:
            before = self.part.extents.total
            try:
                if await self._receive(claim):
                    return
                continue
            except GaveWay:
                self._spliced = True
                continue
            except OUTAGES as error:
                if not self._transfer.opened:
                    raise  # nothing was promised yet: the client gets the true status
                least = DRIP if isinstance(error, UpstreamTimeout) else 0
                fruitless = 0 if self.part.extents.total - before > least else fruitless + 1
                if fruitless >= FRUITLESS_MAX or (error.retry_after_s or 0.0) > _patience_s(error):
                    raise
                if fruitless:
                    # Full jitter: many transfers cut by one fault must not come back in step.
                    await self._ground.sleep(self._ground.rng() * 0.5 * 2**fruitless + (error.retry_after_s or 0.0))
            finally:
                self._pieces.end(claim)
            self._spliced = self._spliced or self.part.extents.total > 0
            self._ground.events.publish(
                TransferResumed(self._transfer.upstream, self._transfer.digest, self.part.frontier)
            )

    async def _next_claim(self) -> Claim | None:
        """What this hand asks for next; None once all is here. What the last helpers have in hand is waited for."""
        while (claim := self._pieces.first(alone=not self._crew)) is None and self._crew:
            await self._crew.changed()
        return claim

    async def _receive(self, claim: Claim) -> bool:
        """One answer of the upstream, to its end; whether that is the end of a blob whose size nobody told.

        Raises UpstreamUnavailable when it came too early.
        """
        await self._turns.turn(self._transfer)
        transfer, origin = self._transfer, self._transfer.origins[0]
        async with AsyncExitStack() as stack:
            asked_until = None if claim.open_ended else claim.stop
            body = await self._ask(stack, origin.source, claim)
            size = self._agreed_size(body, origin.size_hint, claim)
            self._pieces.size = size
            claim.stop = size if claim.stop is None else claim.stop
            if not transfer.opened:
                if size is not None and self.part.allotment is not None:
                    self.part.allotment.admit(size)
                transfer.open(size)
            transfer.givers.add(transfer.upstream)
            answer, goes_on = Answer(body, claim.at, gives_whole=self._crew.gets_whole), True
            if answer.at < claim.at:
                self._crew.learn_whole()
            while goes_on:
                await receive(
                    answer,
                    claim,
                    self.part,
                    self._ground.tasks,
                    upstream=transfer.upstream,
                    limit=self._max_blob_bytes if size is None else size,
                    must_leave=lambda: self._turns.must_yield(transfer),
                    grown=self._grown,
                )
                goes_on = not answer.has_ended and self._follow(claim, answer, asked_until)
        if claim.stop is not None and claim.at < claim.stop:
            missing = claim.stop - claim.at
            raise UpstreamUnavailable(transfer.upstream, f"the body ended {missing} bytes short of {claim.stop}")
        return claim.stop is None

    def _follow(self, claim: Claim, answer: Answer, asked_until: int | None) -> bool:
        """Whether an answer that stands at the claim's end goes on in it.

        One that knows no ranges brings the bytes behind it as well: it is not asked for them again. Of another one only
        the next byte is worth it, where what was cut off the claim came back.
        """
        if not answer.knows_ranges:
            return self._pieces.follow(claim, answer.at)
        return self._pieces.follow(claim, answer.at, until=asked_until, only_next=True)

    async def _ask(self, stack: AsyncExitStack, source: Source, claim: Claim) -> BlobBody:
        """The body from the claim on. A Range answer that lies (another start, 416) is asked again from zero."""
        transfer, upstreams = self._transfer, self._ground.upstreams

        def body(offset: int, stop: int | None) -> AbstractAsyncContextManager[BlobBody]:
            return upstreams.get_blob(
                source,
                transfer.digest,
                offset=offset,
                stop=stop,
                priority=self._priority,
                is_urgent=lambda: bool(transfer.readers),
            )

        stop = None if claim.open_ended else claim.stop
        if self._ask_ranges and (claim.at or stop is not None):
            try:
                return await stack.enter_async_context(body(claim.at, stop))
            except UpstreamLied:
                self._ask_ranges = False
                self._crew.settle()
        return await stack.enter_async_context(body(0, None))

    @property
    def _priority(self) -> Priority:
        """Who waits for what is asked for now."""
        if not self._transfer.readers:
            return Priority.BACKGROUND
        return Priority.MIDWAY if self._transfer.opened else Priority.CLIENT

    def _agreed_size(self, body: BlobBody, hint: int | None, claim: Claim) -> int | None:
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
        if size is not None and self.part.extents.stop > size:
            raise UpstreamLied(transfer.upstream, f"it tells a size of {size} bytes, but has sent more before")
        if body.start > claim.at:
            raise UpstreamLied(transfer.upstream, f"it answered from byte {body.start}, asked for {claim.at}")
        return size

    def _grown(self) -> None:
        self._transfer.grow(self.part.extents)
        self._crew.look()
