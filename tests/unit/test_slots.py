"""Connection slots: the cap, the clients' quarter, and leaving while waiting."""

import asyncio
from contextlib import AsyncExitStack

from proxy.tasks import Tasks
from proxy.upstream.base import Priority
from proxy.upstream.slots import Slots

CLIENT, BACKGROUND = Priority.CLIENT, Priority.BACKGROUND


async def waiter(slots: Slots, priority: Priority, release: asyncio.Event, order: list[Priority]) -> None:
    async with slots.hold(priority):
        order.append(priority)
        await release.wait()


async def turn() -> None:
    """Let every ready task run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_background_leaves_a_quarter_to_clients() -> None:
    """Of eight slots background holds six at most; clients may hold all."""
    release, order = asyncio.Event(), list[Priority]()
    async with Tasks() as tasks:
        slots = Slots(8)
        for _ in range(8):
            tasks.start(waiter(slots, BACKGROUND, release, order), name="background")
        await turn()
        assert (slots.used, slots.waiting(BACKGROUND)) == (6, 2)
        for _ in range(3):
            tasks.start(waiter(slots, CLIENT, release, order), name="client")
        await turn()
        assert (slots.used, slots.waiting(CLIENT)) == (8, 1)
        release.set()
        await turn()
        assert (slots.used, len(order)) == (0, 11)


async def test_a_freed_slot_goes_to_a_waiting_client_first() -> None:
    """A client that came last is served before background that came first."""
    release, order = asyncio.Event(), list[Priority]()
    async with Tasks() as tasks:
        slots = Slots(1)
        async with slots.hold(CLIENT):
            tasks.start(waiter(slots, BACKGROUND, release, order), name="background")
            await turn()
            tasks.start(waiter(slots, CLIENT, release, order), name="client")
            await turn()
        await turn()
        assert order == [CLIENT]
        release.set()
        await turn()
        assert order == [CLIENT, BACKGROUND]


async def test_a_waiter_who_leaves_loses_no_slot() -> None:
    """Cancelled while waiting, and cancelled in the very turn the slot is given: the next one gets it."""
    release, order = asyncio.Event(), list[Priority]()
    release.set()
    async with Tasks() as tasks:
        slots = Slots(1)
        for leaves_late in (False, True):
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(slots.hold(CLIENT))
                leaver = tasks.start(waiter(slots, CLIENT, release, order), name="leaver")
                await turn()
                if not leaves_late:
                    leaver.cancel()
                    await turn()
            if leaves_late:
                leaver.cancel()
            await turn()
            assert leaver.cancelled()
            assert slots.used == 0
        tasks.start(waiter(slots, BACKGROUND, release, order), name="next")
        await turn()
        assert order == [BACKGROUND]
