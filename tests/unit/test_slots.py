"""Connection slots: the cap, the clients' quarter, and leaving while waiting."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from proxy.tasks import Tasks
from proxy.upstream.base import Priority
from proxy.upstream.slots import NoSlot, Slots
from tests.support.waiting import settled

MIDWAY, CLIENT, BACKGROUND = Priority.MIDWAY, Priority.CLIENT, Priority.BACKGROUND


async def waiter(
    slots: Slots, priority: Priority, release: asyncio.Event, order: list[Priority], is_body: bool = False
) -> None:
    async with slots.hold(priority, is_body=is_body):
        order.append(priority)
        await release.wait()


async def test_background_leaves_a_quarter_to_clients() -> None:
    """Of eight slots background holds six at most; clients may hold all."""
    release, order = asyncio.Event(), list[Priority]()
    async with Tasks() as tasks:
        slots = Slots(8)
        for _ in range(8):
            tasks.start(waiter(slots, BACKGROUND, release, order), name="background")
        await settled()
        assert (slots.used, slots.waiting(BACKGROUND)) == (6, 2)
        for _ in range(3):
            tasks.start(waiter(slots, CLIENT, release, order), name="client")
        await settled()
        assert (slots.used, slots.waiting(CLIENT)) == (8, 1)
        release.set()
        await settled()
        assert (slots.used, len(order)) == (0, 11)


async def test_a_freed_slot_goes_to_a_waiting_client_first() -> None:
    """A client that came last is served before background that came first."""
    release, order = asyncio.Event(), list[Priority]()
    async with Tasks() as tasks:
        slots = Slots(1)
        async with slots.hold(CLIENT, is_body=False):
            tasks.start(waiter(slots, BACKGROUND, release, order), name="background")
            await settled()
            tasks.start(waiter(slots, CLIENT, release, order), name="client")
            await settled()
        await settled()
        assert order == [CLIENT]
        release.set()
        await settled()
        assert order == [CLIENT, BACKGROUND]


async def test_a_body_s_rest_goes_before_another_s_beginning() -> None:
    """And behind what is short, whoever came first; it has no more of the connections than any body."""
    release, order = asyncio.Event(), list[Priority]()
    async with Tasks() as tasks:
        slots = Slots(2)
        async with slots.hold(MIDWAY, is_body=True), slots.hold(CLIENT, is_body=False):
            for priority, is_body in ((BACKGROUND, False), (CLIENT, True), (MIDWAY, True), (CLIENT, False)):
                tasks.start(waiter(slots, priority, release, order, is_body), name="waiter")
                await settled()
            assert slots.waiting(MIDWAY) == 1
        await settled()
        assert order == [CLIENT, MIDWAY]
        assert (slots.used, slots.waiting(CLIENT), slots.waiting(BACKGROUND)) == (2, 1, 1)
        release.set()
        await settled()
        assert order == [CLIENT, MIDWAY, CLIENT, BACKGROUND]


async def test_a_waiter_who_leaves_loses_no_slot() -> None:
    """Cancelled while waiting, and cancelled in the very turn the slot is given: the next one gets it."""
    release, order = asyncio.Event(), list[Priority]()
    release.set()
    async with Tasks() as tasks:
        slots = Slots(1)
        for leaves_late in (False, True):
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(slots.hold(CLIENT, is_body=False))
                leaver = tasks.start(waiter(slots, CLIENT, release, order), name="leaver")
                await settled()
                if not leaves_late:
                    leaver.cancel()
                    await settled()
            if leaves_late:
                leaver.cancel()
            await settled()
            assert leaver.cancelled()
            assert slots.used == 0
        tasks.start(waiter(slots, BACKGROUND, release, order), name="next")
        await settled()
        assert order == [BACKGROUND]


@pytest.mark.parametrize(("limit", "bodies"), [(64, 56), (8, 7), (2, 1)])
async def test_what_is_short_never_waits_behind_bodies(limit: int, bodies: int) -> None:
    """As many bodies as may be leave a slot for a manifest, and a background one more for a client's body."""
    release, order = asyncio.Event(), list[Priority]()
    async with Tasks() as tasks:
        slots = Slots(limit)
        for _ in range(limit):
            tasks.start(waiter(slots, BACKGROUND, release, order, is_body=True), name="behind")
        await settled()
        behind = slots.used
        assert behind == max(1, min(limit * 3 // 4, bodies - 1))
        for _ in range(limit):
            tasks.start(waiter(slots, CLIENT, release, order, is_body=True), name="body")
        await settled()
        assert (slots.used, slots.waiting(CLIENT)) == (bodies, limit - (bodies - behind))
        async with slots.hold(CLIENT, is_body=False):
            assert slots.used == bodies + 1
        release.set()
        await settled()
        assert (slots.used, len(order)) == (0, 2 * limit)


async def test_a_client_waits_for_a_slot_as_long_as_it_said() -> None:
    """Then it is told; the queue has forgotten it."""
    slots = Slots(1)
    async with slots.hold(CLIENT, is_body=True):
        with pytest.raises(NoSlot):
            async with slots.hold(CLIENT, is_body=False, within_s=0.0):
                raise AssertionError("the only slot is held")
        assert (slots.used, slots.waiting(CLIENT)) == (1, 0)
    assert slots.used == 0


async def test_background_that_has_become_urgent_is_a_client() -> None:
    """A client joined it while it waited: the share that is kept for clients is its own now."""
    release, order, urgent = asyncio.Event(), list[Priority](), asyncio.Event()
    async with Tasks() as tasks:
        slots = Slots(8)
        for _ in range(6):
            tasks.start(waiter(slots, BACKGROUND, release, order, is_body=True), name="behind")
        await settled()

        async def joined() -> None:
            async with slots.hold(BACKGROUND, is_body=True, is_urgent=urgent.is_set):
                assert slots.used == 7

        promoted = tasks.start(joined(), name="joined")
        await settled()
        assert slots.waiting(BACKGROUND) == 1
        urgent.set()
        await promoted
        assert (slots.used, slots.waiting(BACKGROUND)) == (6, 0)
        release.set()


async def test_a_waiter_who_has_just_left_is_passed_over() -> None:
    """Cancelled, and the slot freed before it could run: it ends as cancelled, and the next one has the slot."""
    release, order = asyncio.Event(), list[Priority]()
    release.set()
    async with Tasks() as tasks:
        slots = Slots(1)
        async with slots.hold(CLIENT, is_body=False):
            leaver = tasks.start(waiter(slots, CLIENT, release, order), name="leaver")
            stays = tasks.start(waiter(slots, CLIENT, release, order), name="stays")
            await settled()
            leaver.cancel()
        await asyncio.wait([leaver, stays])
        assert leaver.cancelled()
        assert (order, slots.used, slots.waiting(CLIENT)) == ([CLIENT], 0, 0)
