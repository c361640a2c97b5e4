"""How many requests may run against one server: a hard cap, a quarter of it kept for clients.

Invariant: a slot is given at the moment another is freed, not when its new owner wakes, so no third can slip in
between; and a waiter who leaves with a slot in hand gives it back.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.upstream.base import Priority


class Slots:
    """At most `limit` holders at once, of them at most three quarters (at least one) BACKGROUND. Clients go first."""

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._background_limit = max(1, self._limit * 3 // 4)
        self._held = dict.fromkeys(Priority, 0)
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in Priority}

    @property
    def used(self) -> int:
        return sum(self._held.values())

    def waiting(self, priority: Priority) -> int:
        return sum(not waiter.done() for waiter in self._waiting[priority])

    def _has_room(self, priority: Priority) -> bool:
        if priority is Priority.BACKGROUND and self._held[priority] >= self._background_limit:
            return False
        return self.used < self._limit

    @asynccontextmanager
    async def hold(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for a slot, and hold it."""
        await self._take(priority)
        try:
            yield
        finally:
            self._give_back(priority)

    async def _take(self, priority: Priority) -> None:
        if self._has_room(priority) and not self.waiting(priority):
            self._held[priority] += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting[priority].append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.cancelled():
                self._waiting[priority].remove(waiter)
            else:  # the slot was given in the same turn as the cancellation
                self._give_back(priority)
            raise

    def _give_back(self, priority: Priority) -> None:
        self._held[priority] -= 1
        for kind in (Priority.CLIENT, Priority.BACKGROUND):
            while self._waiting[kind] and self._has_room(kind):
                waiter = self._waiting[kind].popleft()
                if not waiter.done():
                    self._held[kind] += 1
                    waiter.set_result(None)
