"""Background tasks: kept, named, reported once, and ended at stop."""

import asyncio
import gc

import pytest
from structlog.testing import capture_logs

from proxy.tasks import Tasks
from tests.support.waiting import turns


async def forever(ended: list[str] | None = None) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        if ended is not None:
            ended.append("ended")


async def failing() -> None:
    raise ValueError("broken")


async def finished(tasks: Tasks) -> None:
    """Let every task that is ready run to its end, and see that none is left."""
    await turns(10)
    assert len(tasks) == 0


async def test_a_failure_is_reported_once() -> None:
    """A task that fails is logged once, by its name and with its trace; it is kept no longer."""
    tasks = Tasks()
    with capture_logs() as lines:
        tasks.start(failing(), name="scrub")
        await finished(tasks)
        await tasks.stop()
    assert [(line["event"], line["task"], line["error"]) for line in lines] == [
        ("task failed", "scrub", "ValueError('broken')")
    ]
    assert isinstance(lines[0]["exc_info"], ValueError)


async def test_who_asks_for_the_result_gets_the_failure() -> None:
    """With `report=False` the failure is its waiter's and no line is logged."""
    tasks = Tasks()
    with capture_logs() as lines:
        with pytest.raises(ValueError, match="broken"):
            await tasks.start(failing(), name="flight", report=False)
        await finished(tasks)
    assert lines == []


async def test_a_cancelled_task_is_no_failure() -> None:
    """Cancelling is not reported."""
    tasks = Tasks()
    with capture_logs() as lines:
        task = tasks.start(forever(), name="idle")
        task.cancel()
        await finished(tasks)
    assert lines == []
    assert task.cancelled()


async def test_stop_waits_until_each_has_really_ended() -> None:
    """Stop returns only after the last clean-up, however many turns of the loop that takes."""
    tasks, ended = Tasks(), []

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await turns(5)
            ended.append("slow")

    async with tasks:
        tasks.start(slow_to_end(), name="slow")
        tasks.start(forever(ended), name="quick")
        await turns()
        assert len(tasks) == 2
    assert sorted(ended) == ["ended", "slow"]
    assert len(tasks) == 0


async def test_tasks_started_during_stop_are_ended() -> None:
    """A task that starts another while it ends leaves none behind, generation after generation."""
    tasks, ended = Tasks(), []

    async def heir(generations: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(generations)
            if generations:
                tasks.start(heir(generations - 1), name=f"heir {generations}")
                await turns()  # the heir runs before stop has seen it

    tasks.start(heir(3), name="first")
    await turns()
    await tasks.stop()
    assert ended == [3, 2, 1, 0]
    assert len(tasks) == 0


async def test_a_task_that_swallows_its_cancellation_is_waited_for() -> None:
    """Stop neither hangs nor returns early when a task ends in its own way."""
    tasks, ended = Tasks(), []

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await turns()
            ended.append("stubborn")

    tasks.start(stubborn(), name="stubborn")
    await turns()
    await tasks.stop()
    assert ended == ["stubborn"]


async def test_a_task_cancelled_before_its_first_step_leaves_nothing() -> None:
    """Stopping at once after starting ends a task that never ran, without a warning."""
    tasks = Tasks()
    ended: list[str] = []
    tasks.start(forever(ended), name="unborn")
    await tasks.stop()
    assert ended == []
    assert len(tasks) == 0


async def test_no_task_vanishes_in_a_storm_of_garbage_collections() -> None:
    """The loop keeps weak references only; a hundred tasks that nobody else holds all come to their end (V46)."""
    tasks, gate = Tasks(), asyncio.Event()
    ended: list[int] = []

    async def waiting(number: int) -> None:
        await gate.wait()
        ended.append(number)

    for number in range(100):
        tasks.start(waiting(number), name=f"task {number}")
        if number % 10 == 0:
            await turns()
            gc.collect()
    gate.set()
    await finished(tasks)
    assert sorted(ended) == list(range(100))
