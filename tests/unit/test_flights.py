"""Single flight: one call, shared by all who ask meanwhile, owned by none of them."""

import asyncio
import gc

import pytest

from proxy.flights import Flights
from proxy.tasks import Tasks
from tests.support.waiting import settled, turns


class Calls:
    """A call that waits at a gate and counts how often it was made."""

    def __init__(self) -> None:
        self.made = 0
        self.gate = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self) -> int:
        self.made += 1
        number = self.made
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return number


async def test_all_who_ask_meanwhile_share_one_call() -> None:
    """A hundred callers of one key cost one call and get its result; another key has its own."""
    async with Tasks() as tasks:
        flights: Flights[str, int] = Flights(tasks, "test")
        calls, other = Calls(), Calls()
        callers = [tasks.start(flights.fly("a", calls), name="caller") for _ in range(100)]
        apart = tasks.start(flights.fly("b", other), name="caller")
        await settled()
        assert (len(flights), flights.running("a"), flights.running("c")) == (2, True, False)
        calls.gate.set()
        other.gate.set()
        assert set(await asyncio.gather(*callers)) == {1}
        assert await apart == 1
        assert (calls.made, other.made, len(flights)) == (1, 1, 0)


async def test_a_leaving_caller_does_not_end_the_call() -> None:
    """The first caller, who started it, may leave, and all of them may; the call goes on to its end."""
    async with Tasks() as tasks:
        flights: Flights[str, int] = Flights(tasks, "test")
        calls = Calls()
        first, second = (tasks.start(flights.fly("a", calls), name=name) for name in ("first", "second"))
        await settled()
        first.cancel()
        await settled()
        assert first.cancelled()
        third = tasks.start(flights.fly("a", calls), name="third")
        await settled()
        calls.gate.set()
        assert (await second, await third, calls.made) == (1, 1, 1)


async def test_an_error_is_shared_and_not_remembered() -> None:
    """Every caller gets the one error; the next caller gets a fresh call."""
    async with Tasks() as tasks:
        flights: Flights[str, int] = Flights(tasks, "test")
        calls = Calls()
        calls.failure = ValueError("down")
        callers = [tasks.start(flights.fly("a", calls), name="caller", report=False) for _ in range(3)]
        await settled()
        calls.gate.set()
        assert await asyncio.gather(*callers, return_exceptions=True) == [calls.failure] * 3
        calls.failure = None
        assert await flights.fly("a", calls) == 2


async def test_an_error_that_nobody_waits_for_is_silent() -> None:
    """With every caller gone, the loop's handler of unseen errors hears nothing."""
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    async with Tasks() as tasks:
        flights: Flights[str, int] = Flights(tasks, "test")
        calls = Calls()
        calls.failure = ValueError("down")
        caller = tasks.start(flights.fly("a", calls), name="caller")
        flights.start("b", calls)
        await settled()
        caller.cancel()
        calls.gate.set()
        await settled()
    gc.collect()
    assert unseen == []
    assert len(flights) == 0


async def test_a_late_caller_gets_a_fresh_call() -> None:
    """Who asks in the very turn of the loop after the call ended never gets its old result."""
    async with Tasks() as tasks:
        flights: Flights[str, int] = Flights(tasks, "test")
        late: list[asyncio.Task[int]] = []
        made = 0

        async def call() -> int:
            nonlocal made
            made += 1
            if made == 1:
                # Runs after this call has ended and before the callbacks of its task.
                asyncio.get_running_loop().call_soon(lambda: late.append(flights.start("a", call)))
            return made

        assert await flights.fly("a", call) == 1
        await settled()
        assert await late[0] == 2
        assert len(flights) == 0


async def test_a_key_leaves_the_table_at_stop() -> None:
    """Stopping ends the call, frees its key, and its callers hear of the cancellation; also before the first step."""
    for begun in (0, 5):
        tasks = Tasks()
        flights: Flights[str, int] = Flights(tasks, "test")
        calls = Calls()
        running = flights.start("a", calls)
        await turns(begun)
        await tasks.stop()
        assert running.cancelled()
        assert (len(flights), flights.running("a"), calls.made) == (0, False, int(begun > 0))


async def test_a_caller_hears_of_the_stop() -> None:
    """A caller whose call was ended at stop is not left waiting."""
    outside, tasks = Tasks(), Tasks()
    flights: Flights[str, int] = Flights(tasks, "test")
    caller = outside.start(flights.fly("a", Calls()), name="caller")
    await settled()
    await tasks.stop()
    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_running_call_survives_garbage_collection() -> None:
    """A call that nobody but the table holds comes to its end (V46)."""
    async with Tasks() as tasks:
        flights: Flights[str, int] = Flights(tasks, "test")
        ended: list[int] = []
        gate = asyncio.Event()

        async def call() -> int:
            await gate.wait()
            ended.append(1)
            return 1

        for key in range(100):
            flights.start(str(key), call)
        await settled()
        gc.collect()
        gate.set()
        await settled()
        assert (len(ended), len(flights)) == (100, 0)
