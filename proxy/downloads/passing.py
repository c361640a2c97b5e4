"""A body that is not kept: received once, hashed as it goes by, handed to its readers from a ring in memory.

It is paced by its readers: nothing is received while the ring is full of what they still want. One that holds up others
has PATIENCE_S in all; then the ring goes on without it, and it fetches the rest by itself. Everything in front of a
reader's range is received too, since only a whole body can be verified.
Invariant: bytes within HOLD of the end leave only once the digest is confirmed, here as everywhere.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final, Protocol

from proxy.downloads.bell import Bell
from proxy.downloads.ring import Hasher, Piece, Ring
from proxy.errors import (
    CisternError,
    UpstreamLied,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
    WrongDigest,
)
from proxy.events import IntegrityFailed, TransferResumed
from proxy.ground import Ground
from proxy.oci import Digest
from proxy.rules import Source
from proxy.store.base import HOLD
from proxy.upstream.base import BlobBody, Priority

PATIENCE_S: Final = 1.0
FRUITLESS_MAX: Final = 3
PAUSE_MAX_S: Final = 10.0
OUTAGES: Final = (UpstreamUnavailable, UpstreamTimeout, UpstreamThrottled)


class Promoted(Exception):
    """There is room for the body now, and the ring still holds it from its first byte."""


class Taker(Protocol):
    """A reader of the ring: where it stands, and how long others may still wait for it."""

    at: int
    patience_s: float


class Pass:
    """One run through a blob from `ring.begin` to its end. `takers` are the readers that the ring serves."""

    def __init__(
        self,
        ground: Ground,
        digest: Digest,
        source: Source,
        begin: int,
        hasher: Hasher,
        *,
        size: int | None,
        limit: int,
        bell: Bell,
        opened: Callable[[int | None], object] | None,
        ring: Callable[[], int],
    ) -> None:
        """`opened` is told the size with the first answer; None: an earlier one has told it. `ring` tells how many
        bytes the ring may hold by now.
        """
        self.ring = Ring(begin, ring)
        self.size = size
        self.verified = False
        self.error: CisternError | None = None
        self.bell = bell  # rings when there is more to take, and at the end
        self.moved = Bell()  # rings when a reader has taken something, or left
        self.takers: set[Taker] = set()
        self.expected: Callable[[], int] = lambda: 0  # how many readers are on their way to it
        self._grace_s = PATIENCE_S
        self.claim: asyncio.Task[Any] | None = None  # done when there is room after all
        self.stop: Callable[[], object] = lambda: None  # ends it: nobody takes of it any more
        self._ground = ground
        self._digest = digest
        self._source = source
        self._hash = hasher
        self._limit = limit
        self._opened = opened
        self._answered = opened is None
        self._spliced = begin > 0

    @property
    def releasable(self) -> int:
        """Where the bytes that may leave now end."""
        if self.verified:
            return self.ring.stop
        return min(self.ring.stop, (self.ring.stop if self.size is None else self.size) - HOLD)

    def is_over(self, offset: int) -> bool:
        """Whether there is nothing more to come at `offset`."""
        return self.verified and offset >= self.ring.stop

    async def run(self) -> None:
        """Receive to the end and verify. Raises UpstreamFault, or Promoted."""
        fruitless = 0
        while True:
            before = self.ring.stop
            try:
                await self._receive()
                break
            except OUTAGES as error:
                if not self._answered:
                    raise  # nothing was promised yet: the client gets the true status
                fruitless = 0 if self.ring.stop > before else fruitless + 1
                if fruitless >= FRUITLESS_MAX or (error.retry_after_s or 0.0) > PAUSE_MAX_S:
                    raise
                if fruitless:
                    await self._ground.sleep(self._ground.rng() * 0.5 * 2**fruitless + (error.retry_after_s or 0.0))
            self._spliced = self._spliced or self.ring.stop > 0
            self._ground.events.publish(TransferResumed(self._source.upstream, self._digest, self.ring.stop))
        if self._hash.hexdigest() != self._digest.encoded:
            where = "resume" if self._spliced else "upstream"
            self._ground.events.publish(IntegrityFailed(where, self._digest, self._source.place))
            raise WrongDigest(self._source.upstream, f"its bytes do not hash to {self._digest}")
        self.verified, self.size = True, self.ring.stop
        self.bell.ring()

    async def _receive(self) -> None:
        """One answer of the upstream, to its end. Raises UpstreamUnavailable when that came too early."""
        priority = Priority.MIDWAY if self._answered else Priority.CLIENT
        async with AsyncExitStack() as stack:
            body = await stack.enter_async_context(
                self._ground.upstreams.get_blob(self._source, self._digest, offset=self.ring.stop, priority=priority)
            )
            self._agree(body)
            if not self._answered and self._opened is not None:
                self._opened(self.size)
            self._answered = True
            async with aclosing(self._fresh(body)) as chunks:
                async for chunk in chunks:
                    await self._take(chunk)
        if self.size is not None and self.ring.stop < self.size:
            missing = self.size - self.ring.stop
            raise UpstreamUnavailable(self._source.upstream, f"the body ended {missing} bytes short of {self.size}")

    def _agree(self, body: BlobBody) -> None:
        if body.start > self.ring.stop:
            raise UpstreamLied(self._source.upstream, f"it answered from byte {body.start}, not {self.ring.stop}")
        if body.size is not None and self.size is not None and body.size != self.size:
            raise UpstreamLied(self._source.upstream, f"the blob's size is told as {self.size} and as {body.size}")
        self.size = body.size if self.size is None else self.size
        if self.size is not None and self.size > self._limit:
            raise UpstreamLied(self._source.upstream, f"a blob of {self.size} bytes is larger than limits.max_blob")

    async def _fresh(self, body: BlobBody) -> AsyncGenerator[bytes, None]:
        """What is new of an answer that may have begun before the ring's end."""
        skip = self.ring.stop - body.start
        limit = self._limit if self.size is None else self.size
        async for chunk in body.chunks:
            fresh, skip = chunk[skip:], max(0, skip - len(chunk))
            if not fresh:
                continue
            if self.ring.stop + len(fresh) > limit:
                raise UpstreamLied(self._source.upstream, f"the body is longer than {limit} bytes")
            # In halves of the ring: where readers wait for the digest in one, the next still finds room.
            step = max(1, self.ring.most // 2)
            for start in range(0, len(fresh), step):
                yield bytes(fresh[start : start + step])

    async def _take(self, chunk: bytes) -> None:
        await self._make_room()
        # A copy: when this is cancelled here and run on, the chunk comes again, and must not be hashed twice.
        after = self._hash.copy()
        await self._ground.threads.hash(after.update, chunk)
        self._hash = after
        self.ring.add(Piece(self.ring.stop, chunk, after))
        self.bell.ring()

    async def _make_room(self) -> None:
        """Wait until the ring has room, in step with its readers. Raises Promoted."""
        if self.claim is not None and self.claim.done():
            self._decide(self.claim)
        while self.ring.is_full:
            if self.claim is not None:
                await asyncio.wait([self.claim])  # for a bounded time: then it is kept, or never
                self._decide(self.claim)
            oldest = self.ring.pieces[0]
            late = [taker for taker in self.takers if oldest.start <= taker.at < oldest.stop]
            if late and await self._waited_for(late):
                continue
            if not late and self.ring.is_whole and self._grace_s > 0 and self.expected():
                # They still read what a part holds: a moment's patience spares each a request of its own.
                self._grace_s -= await self._moved_within(self._grace_s)
                continue
            self.ring.drop()

    def _decide(self, claim: "asyncio.Task[Any]") -> None:
        if not claim.cancelled() and claim.exception() is None:
            raise Promoted
        self.claim = None

    async def _waited_for(self, late: "list[Taker]") -> bool:
        """Wait until a reader moves; False when one that waits for more has waited long enough for the late ones."""
        if not any(taker.at >= self.ring.stop - HOLD for taker in self.takers if taker not in late):
            await self.moved.wait()
            return True
        patience_s = max(taker.patience_s for taker in late)
        waited_s = await self._moved_within(patience_s)
        for taker in late:
            taker.patience_s -= waited_s
        return patience_s > 0

    async def _moved_within(self, patience_s: float) -> float:
        """Wait until a reader moves, at most so long; how long it was, all of it when none did."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(max(0.0, patience_s)):
                await self.moved.wait()
        except TimeoutError:
            return patience_s
        return loop.time() - began
