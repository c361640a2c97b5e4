"""The bell: wakes all who wait, once, and remembers nothing."""

import asyncio

from proxy.downloads.bell import Bell
from proxy.tasks import Tasks
from tests.support.waiting import turns


async def test_a_ring_wakes_all_who_wait() -> None:
    """Everybody who waits returns at the next ring."""
    bell = Bell()
    async with Tasks() as tasks:
        waiters = [tasks.start(bell.wait(), name="waiter") for _ in range(100)]
        await turns()
        assert not any(waiter.done() for waiter in waiters)
        bell.ring()
        await asyncio.gather(*waiters)


async def test_a_ring_is_not_remembered() -> None:
    """A ring before the wait is lost: the waiter looks first, then waits."""
    bell = Bell()
    bell.ring()
    bell.ring()
    async with Tasks() as tasks:
        late = tasks.start(bell.wait(), name="late")
        await turns(2)
        assert not late.done()
        bell.ring()
        await late


async def test_a_leaving_waiter_takes_nobody_along() -> None:
    """One waiter's cancellation neither wakes nor ends the others, and the bell still rings."""
    bell = Bell()
    async with Tasks() as tasks:
        leaver, stayer = (tasks.start(bell.wait(), name=name) for name in ("leaver", "stayer"))
        await turns()
        leaver.cancel()
        await turns(2)
        assert leaver.cancelled()
        assert not stayer.done()
        bell.ring()
        await stayer


async def test_the_last_waiter_may_leave() -> None:
    """A ring after every waiter left is no error, and the next wait is a new one."""
    bell = Bell()
    async with Tasks() as tasks:
        leaver = tasks.start(bell.wait(), name="leaver")
        await turns()
        leaver.cancel()
        await turns()
        bell.ring()
        again = tasks.start(bell.wait(), name="again")
        await turns()
        assert not again.done()
        bell.ring()
        await again


async def test_who_waits_again_hears_the_next_ring() -> None:
    """A reader that looks and waits in turn sees each of three rings."""
    bell, seen, rings = Bell(), [], 0

    async def reader() -> None:
        while rings < 3:
            await bell.wait()
            seen.append(rings)

    async with Tasks() as tasks:
        reading = tasks.start(reader(), name="reader")
        for _ in range(3):
            await turns()
            rings += 1
            bell.ring()
            await turns(2)
        await reading
    assert seen == [1, 2, 3]
