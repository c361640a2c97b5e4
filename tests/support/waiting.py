"""Waiting, in one place and never for ever: turns of this loop, and looks at what rings no bell here.

A test waits for a gate, an event or a task wherever there is one. What is left: tasks that are ready need a turn of the
loop; what another process writes, logs or ends can only be looked at.
"""

import asyncio
from collections.abc import Awaitable, Callable

LOOK_EVERY_S = 0.01


async def turns(count: int = 1) -> None:
    """Let the loop turn so often: what is ready runs, no time passes."""
    for _ in range(count):
        await asyncio.sleep(0)  # the one way to give a turn away


async def settled() -> None:
    """Let the loop turn until what is ready has run; no time passes."""
    await turns(10)


async def until(is_so: Callable[[], object], *, within_s: float = 20.0) -> None:
    """Let the loop turn until it is so: for what tasks and sockets of this process bring about."""
    async with asyncio.timeout(within_s):
        while not is_so():
            await turns()


async def seen(is_so: Callable[[], object], *, within_s: float = 20.0, every_s: float = LOOK_EVERY_S) -> None:
    """Look until it is so: for what another process does, or the kernel, which tell nobody here."""

    async def look() -> bool:
        return bool(is_so())

    await answered(look, within_s=within_s, every_s=every_s)


async def answered(
    ask: Callable[[], Awaitable[bool]], *, within_s: float = 20.0, every_s: float = LOOK_EVERY_S
) -> None:
    """Ask another process until it says so."""
    async with asyncio.timeout(within_s):
        while not await ask():  # noqa: ASYNC110 - another process rings no bell here
            await asyncio.sleep(every_s)  # it is not hurried by being asked without pause
