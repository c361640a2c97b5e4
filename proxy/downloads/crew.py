"""Helping hands of one transfer: further connections that bring pieces, where that was measured to help.

The transfer does without them: what a helper cannot bring goes back, and the transfer's own hand asks for it. They help
clients only, they never take an upstream's last connections, and they end when nobody reads.
Invariant: after `stop` none runs, and none writes.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from proxy.downloads.bell import Bell
from proxy.downloads.pace import WINDOW_S, Lessons, Pace
from proxy.downloads.part import Part
from proxy.downloads.pieces import Claim, Pieces
from proxy.downloads.stream import Answer, GaveWay, receive
from proxy.downloads.transfer import Transfer
from proxy.downloads.turns import Turns
from proxy.errors import CisternError, UpstreamLied, UpstreamThrottled
from proxy.ground import Ground
from proxy.upstream.base import Priority

# A blob of less is here in a second or so from storage that limits each connection; to find out whether more of them
# help would cost its upstream requests and, where the machine itself is slow, bytes that are sent in vain.
WORTH: Final = 64 << 20
WAIT_S: Final = 1.0  # a reader ahead of the transfer waits so long for it before it gets a range of its own


class Crew:
    """The helpers of one transfer. True while one of them has something in hand."""

    def __init__(
        self, ground: Ground, part: Part, transfer: Transfer, pieces: Pieces, turns: Turns, lessons: Lessons, most: int
    ) -> None:
        self._ground = ground
        self._part = part
        self._transfer = transfer
        self._pieces = pieces
        self._turns = turns
        self._lessons = lessons
        self._pace = Pace(most, lessons.recall(transfer.upstream, ground.monotonic()))
        self._can_help = most > 1 and not self.gets_whole
        self._helpers: set[asyncio.Task[None]] = set()
        self._bringing = 0  # helpers whose bytes flow
        self._bell = Bell()
        self._started: tuple[float, int] | None = None  # when the first bytes came, and how many were here then
        self.has_helped = False
        self._is_awaited = False  # by the transfer's own hand, which has nothing else to bring

    @property
    def gets_whole(self) -> bool:
        """Whether the upstream was lately seen to begin at zero, whatever range it is asked for."""
        return self._lessons.gives_whole(self._transfer.upstream, self._ground.monotonic())

    def learn_whole(self) -> None:
        """It does now: this transfer's answers cannot be put together, and the next one's are not asked for."""
        self._lessons.learn_whole(self._transfer.upstream, self._ground.monotonic())
        self.settle()

    def __bool__(self) -> bool:
        return bool(self._helpers)

    async def changed(self) -> None:
        """Wait until a helper ends; one that waits for its turn meanwhile has it as a client has."""
        self._is_awaited = True
        try:
            await self._bell.wait()
        finally:
            self._is_awaited = False

    def look(self) -> None:
        """Bytes came, or a reader waits: see whether another hand is due. Plain and cheap: called for every batch."""
        if not self._can_help or self._pieces.size is None or not self._transfer.readers:
            return
        wanted = self._wanted() if self._pieces.size >= WORTH else 1
        while (claim := self._claim(1 + len(self._helpers) < wanted, not self._helpers)) is not None:
            helper = self._ground.tasks.start(self._help(claim), name=f"help {self._transfer.digest}", report=False)
            self._helpers.add(helper)
            helper.add_done_callback(self._ended)

    def _wanted(self) -> int:
        """How many connections there should be; what was found goes for the upstream's next blobs too."""
        was_settled, now = self._pace.settled, self._ground.monotonic()
        wanted = self._pace.note(now, self._pieces.received, 1 + self._bringing)
        if self._pace.settled and self._pace.has_tried and not was_settled:
            self._lessons.learn(self._transfer.upstream, wanted, now)
        return wanted

    def settle(self) -> None:
        """No more helpers for this transfer: its answers cannot be put together."""
        self._can_help = False

    async def stop(self) -> None:
        """End all helpers; what they had received is written when this returns."""
        while self._helpers:
            for helper in self._helpers:
                helper.cancel()
            await asyncio.wait(list(self._helpers))
            await asyncio.sleep(0)  # done callbacks run one turn later

    def _ended(self, helper: "asyncio.Task[None]") -> None:
        self._helpers.discard(helper)
        if not helper.cancelled():
            helper.exception()  # marks it as seen: what it could not bring, the transfer's own hand meets
        self._bell.ring()

    def _far(self) -> list[int]:
        """Where readers wait for longer than WAIT_S, at the pace so far: they get a range of their own."""
        now, total = self._ground.monotonic(), self._pieces.received
        if self._started is None:
            self._started = (now, total)
        seconds = now - self._started[0]
        if seconds < WINDOW_S:
            return []  # nobody knows yet how long it will take
        soon = int((total - self._started[1]) / seconds * WAIT_S)
        waiting: Iterable[int | None] = (reader.waits_at for reader in self._transfer.readers)
        return sorted({offset for offset in waiting if offset is not None and self._pieces.is_far(offset, soon)})

    async def _help(self, claim: Claim | None) -> None:
        while claim is not None:
            try:
                await self._bring(claim)
            except GaveWay:
                return
            except CisternError as error:
                self._fail(error)
                return
            finally:
                self._pieces.end(claim)
            claim = self._next()

    def _next(self) -> Claim | None:
        """What this hand brings next; None when it is one too many."""
        if not self._can_help or not self._transfer.readers:
            return None
        return self._claim(len(self._helpers) < self._pace.wanted, len(self._helpers) == 1)

    def _claim(self, is_due: bool, is_only: bool) -> Claim | None:
        """For one hand more, if it `is_due`: where a reader waits far ahead, else what comes next.

        For such a reader there is always one, also where it brings the whole no sooner: it brings the reader its bytes.
        """
        if not is_due and not is_only:
            return None
        for offset in self._far():
            if (claim := self._pieces.piece_at(offset)) is not None:
                return claim
        return self._pieces.next_piece() if is_due else None

    def _fail(self, error: CisternError) -> None:
        now, upstream = self._ground.monotonic(), self._transfer.upstream
        self._pace.settle(len(self._helpers))
        if isinstance(error, UpstreamLied | UpstreamThrottled):
            self.settle()
            self._lessons.learn(upstream, 1, now, max(Lessons.KEPT_S, error.retry_after_s or 0.0))

    async def _bring(self, claim: Claim) -> None:
        transfer = self._transfer
        asking = self._ground.upstreams.get_blob(
            transfer.origins[0].source,
            transfer.digest,
            offset=claim.at,
            stop=claim.stop,
            priority=Priority.BACKGROUND,
            is_urgent=lambda: self._is_urgent(claim),
        )
        async with asking as body:
            if body.start < claim.at:
                self.learn_whole()
            if body.start != claim.at or body.size not in (None, transfer.size) or claim.stop is None:
                raise UpstreamLied(transfer.upstream, "it was asked for a piece and answers another")
            transfer.givers.add(transfer.upstream)
            self._bringing += 1
            self.has_helped = True
            try:
                await receive(
                    Answer(body, claim.at),
                    claim,
                    self._part,
                    self._ground.tasks,
                    upstream=transfer.upstream,
                    limit=self._pieces.size or claim.stop,
                    must_leave=self._must_leave,
                    grown=self._grown,
                )
            finally:
                self._bringing -= 1

    def _is_urgent(self, claim: Claim) -> bool:
        """Whether somebody waits for these very bytes: a reader, or the transfer itself, all else being here."""
        waiting = (reader.waits_at for reader in self._transfer.readers)
        return self._is_awaited or any(
            at is not None and claim.start <= at and (claim.stop is None or at < claim.stop) for at in waiting
        )

    def _must_leave(self) -> bool:
        return self._turns.must_yield(self._transfer)

    def _grown(self) -> None:
        self._transfer.grow(self._part.extents)
        self.look()
