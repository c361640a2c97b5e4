"""How many requests may run against one server: a hard cap, with a share kept for clients and one for what is short.

A body may hold its slot for an hour, so bodies never have the last ones: a manifest, a HEAD or a list waits behind
none. The rest of a body that clients have begun to read goes before any that nobody has begun. Invariant: a slot is
given at the moment another is freed, not when its new owner wakes, so no third can slip in between; and a waiter who
leaves with a slot in hand gives it back.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from proxy.upstream.bandwidth import LOOK_AGAIN_S, never
from proxy.upstream.base import Priority

MIDWAY, CLIENT, BACKGROUND = Priority.MIDWAY, Priority.CLIENT, Priority.BACKGROUND


@dataclass(frozen=True, slots=True)
class Rank:
    """What a slot is for."""

    priority: Priority
    is_body: bool


# Clients before background; of each what is short before what is long, and a body's rest before another's beginning.
ORDER: Final = (
    Rank(CLIENT, False),
    Rank(MIDWAY, True),
    Rank(CLIENT, True),
    Rank(BACKGROUND, False),
    Rank(BACKGROUND, True),
)


class NoSlot(Exception):
    """None was free in time."""


class Slots:
    """At most `limit` holders at once. Bodies have at most seven eighths of them, BACKGROUND at most three quarters and
    one less than bodies may (but one in any case).
    """

    def __init__(self, limit: int) -> None:
        self.limit = max(1, limit)
        self._body_limit = self.limit - max(1, self.limit // 8) if self.limit > 1 else 1
        self._background_limit = max(1, min(self.limit * 3 // 4, self._body_limit - 1))
        self._held = dict.fromkeys(ORDER, 0)
        self._waiting: dict[Rank, deque[asyncio.Future[None]]] = {rank: deque() for rank in ORDER}

    @property
    def used(self) -> int:
        return sum(self._held.values())

    def waiting(self, priority: Priority) -> int:
        waiters = (waiter for rank in ORDER if rank.priority is priority for waiter in self._waiting[rank])
        return sum(not waiter.done() for waiter in waiters)

    def _has_room(self, rank: Rank) -> bool:
        if rank.is_body and sum(self._held[one] for one in ORDER if one.is_body) >= self._body_limit:
            return False
        if rank.priority is BACKGROUND and self._held_behind() >= self._background_limit:
            return False
        return self.used < self.limit

    def _held_behind(self) -> int:
        return sum(self._held[one] for one in ORDER if one.priority is BACKGROUND)

    @asynccontextmanager
    async def hold(
        self, priority: Priority, *, is_body: bool, within_s: float | None = None, is_urgent: Callable[[], bool] = never
    ) -> AsyncIterator[None]:
        """Wait for a slot, a client at most `within_s`, and hold it; raises NoSlot. BACKGROUND waits as long as nobody
        waits for it: from the moment `is_urgent` says so it is a client.
        """
        rank = Rank(CLIENT if priority is MIDWAY and not is_body else priority, is_body)
        if priority is BACKGROUND and not await self._wait_behind(rank, is_urgent):
            rank = Rank(CLIENT, is_body)
        if rank.priority is not BACKGROUND:
            await self._wait(rank, within_s)
        try:
            yield
        finally:
            self._give_back(rank)

    def _ask(self, rank: Rank) -> "asyncio.Future[None]":
        """A slot that is given now, or at the end of its queue."""
        waiter = asyncio.get_running_loop().create_future()
        if self._has_room(rank):
            self._held[rank] += 1
            waiter.set_result(None)
        else:
            self._waiting[rank].append(waiter)
        return waiter

    def _leave(self, rank: Rank, waiter: "asyncio.Future[None]") -> None:
        """Want no slot any more; one that was given in this very turn goes to the next."""
        if waiter.done() and not waiter.cancelled():
            self._give_back(rank)
        elif waiter in self._waiting[rank]:  # else it was passed over already
            self._waiting[rank].remove(waiter)

    async def _wait(self, rank: Rank, within_s: float | None) -> None:
        waiter = self._ask(rank)
        try:
            async with asyncio.timeout(within_s):
                await waiter
        except TimeoutError:
            if waiter.cancelled():  # else it was given in this very turn
                self._leave(rank, waiter)
                raise NoSlot from None
        except asyncio.CancelledError:
            self._leave(rank, waiter)
            raise

    async def _wait_behind(self, rank: Rank, is_urgent: Callable[[], bool]) -> bool:
        """Wait behind all clients; False, without a slot, once it is urgent."""
        waiter = self._ask(rank)
        try:
            while not waiter.done():
                if is_urgent():
                    self._leave(rank, waiter)
                    return False
                await asyncio.wait([waiter], timeout=LOOK_AGAIN_S)
        except asyncio.CancelledError:
            self._leave(rank, waiter)
            raise
        return True

    def _give_back(self, rank: Rank) -> None:
        self._held[rank] -= 1
        for kind in ORDER:
            while self._waiting[kind] and self._has_room(kind):
                waiter = self._waiting[kind].popleft()
                if not waiter.done():
                    self._held[kind] += 1
                    waiter.set_result(None)
