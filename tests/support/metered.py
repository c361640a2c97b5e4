"""An upstream port that sends a step of bytes at each tick of a clock turned by hand: to each connection, or to one."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from proxy.downloads.bell import Bell
from proxy.errors import CisternError
from proxy.rules import Source
from proxy.upstream.base import BlobBody
from tests.support.images import Blob
from tests.support.oneblob import Asked, BlobsOnly
from tests.support.waiting import turns

STEP = 256 << 10
TICK_S = 0.025


@dataclass
class Metered(BlobsOnly):
    """Holds one blob. `shared`: all connections together get one step a tick. `refuse` may raise for a request;
    `spoil` changes what one is answered with; `ranges` off: every answer begins at byte 0.
    """

    wanted: Blob
    shared: bool = False
    ranges: bool = True
    refuse: Callable[[Asked], CisternError | None] = lambda _: None
    spoil: Callable[[Asked, bytes], bytes] = lambda _, data: data
    asked: list[Asked] = field(default_factory=list)
    open: int = 0
    most: int = 0
    sent: int = 0
    now: float = 0.0
    _changed: Bell = field(default_factory=Bell)
    _waiting: deque[asyncio.Future[None]] = field(default_factory=deque)

    def monotonic(self) -> float:
        return self.now

    async def tick(self) -> None:
        """Once every open connection waits, let time pass by TICK_S: each, or the one that waited longest, sends a
        step. While none is open no time passes.
        """
        while sum(not waiter.done() for waiter in self._waiting) < self.open:
            await self._changed.wait()
        await turns()
        if not self.open:
            return
        self.now += TICK_S
        for _ in range(1 if self.shared else len(self._waiting)):
            if self._waiting and not (waiter := self._waiting.popleft()).done():
                waiter.set_result(None)

    @asynccontextmanager
    async def answer(self, source: Source, asked: Asked) -> AsyncIterator[BlobBody]:
        self.asked.append(asked)
        if (error := self.refuse(asked)) is not None:
            raise error
        self.open += 1
        self.most = max(self.most, self.open)
        start = asked.start if self.ranges else 0
        try:
            yield BlobBody(start, self.wanted.size, self._chunks(asked, start), "metered")
        finally:
            self.open -= 1
            self._changed.ring()

    async def _chunks(self, asked: Asked, start: int) -> AsyncIterator[bytes]:
        stop = self.wanted.size if asked.stop is None or not self.ranges else asked.stop
        for place in range(start, stop, STEP):
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            self._changed.ring()
            await waiter
            data = self.wanted.data[place : min(place + STEP, stop)]
            self.sent += len(data)
            yield self.spoil(asked, data)
