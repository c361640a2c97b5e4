"""Wakes everybody who waits, once: a condition variable without a lock, since the event loop is the lock."""

import asyncio


class Bell:
    """`await bell.wait()` returns at the next `ring()`. Nothing is remembered: look first, then wait, without an await
    between.
    """

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next)  # one waiter's cancellation is not the others'

    def ring(self) -> None:
        if self._next is not None:
            self._next.set_result(None)
            self._next = None
