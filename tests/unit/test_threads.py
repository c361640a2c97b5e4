"""The store's threads: own pools, and work that outlives its caller."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from proxy.store.threads import Threads
from proxy.tasks import Tasks
from tests.support.waiting import turns


class DefaultExecutorTouched(ThreadPoolExecutor):
    """Stands in for the loop's default executor and takes no work."""

    def submit(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("the loop's default executor was used")


async def test_work_runs_in_its_own_pool() -> None:
    """Disk and hash work run in threads of their names, never in the loop's default executor."""
    asyncio.get_running_loop().set_default_executor(DefaultExecutorTouched())
    async with Threads() as threads:
        assert (await threads.disk(lambda: threading.current_thread().name)).startswith("disk")
        assert (await threads.hash(lambda: threading.current_thread().name)).startswith("hash")
        assert await threads.disk(divmod, 7, 2) == (3, 1)


async def test_an_error_reaches_the_caller() -> None:
    """What the work raises is raised to who asked."""
    async with Threads() as threads:
        with pytest.raises(OSError, match="No such file"):
            await threads.disk(open, "/nonexistent/file")


async def test_a_pool_is_bounded() -> None:
    """With every disk thread held, disk work waits and hashing goes on."""
    tasks = Tasks()
    async with Threads(disk=2) as threads:
        gate = threading.Event()
        held = [tasks.start(threads.disk(gate.wait), name="held") for _ in range(2)]
        late = tasks.start(threads.disk(int), name="late")
        assert await threads.hash(str, 1) == "1"
        assert not late.done()
        gate.set()
        assert await asyncio.gather(*held, late) == [True, True, 0]


async def test_the_work_of_a_cancelled_caller_is_done() -> None:
    """A caller who leaves ends neither running nor waiting work, and an unclaimed result is handed over."""
    gate, started = threading.Event(), asyncio.Event()
    done: list[str] = []
    unclaimed: list[str] = []
    loop = asyncio.get_running_loop()

    def work(name: str) -> str:
        loop.call_soon_threadsafe(started.set)
        gate.wait()
        done.append(name)
        return name

    tasks = Tasks()
    async with Threads(disk=1) as threads:
        callers = [tasks.start(threads.disk(work, name, unclaimed=unclaimed.append), name=name) for name in "ab"]
        await started.wait()
        for caller in callers:
            caller.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*callers, return_exceptions=True)
        )
        gate.set()
    assert done == ["a", "b"]
    assert unclaimed == ["a", "b"]


async def test_the_error_of_unclaimed_work_is_nobodys() -> None:
    """Work that fails after its caller left raises nowhere, not even in the loop's handler of unseen errors."""
    unseen: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
    gate = threading.Event()

    def work() -> None:
        gate.wait()
        raise OSError("too late")

    async with Threads() as threads:
        caller = Tasks().start(threads.disk(work), name="caller")
        await turns()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        gate.set()
    assert unseen == []


async def test_a_disk_that_hangs_gathers_no_queue() -> None:
    """Once nobody was answered in time, and while every thread still waits, no more work is queued: asking fails at
    once. With the first answer the disk is asked again.
    """
    tasks, done, gate = Tasks(), list[int](), threading.Event()
    begun = threading.Barrier(3)

    def hang() -> None:
        begun.wait(10)
        gate.wait(10)

    async with Threads(disk=2, answer_within_s=0.01) as threads:
        held = [tasks.start(threads.disk(hang), name="held") for _ in range(2)]
        await asyncio.to_thread(begun.wait, 10)
        with pytest.raises(TimeoutError, match="within"):
            await threads.soon(done.append, 0)
        for number in range(1, 1000):
            with pytest.raises(TimeoutError, match="gives no answer"):
                await threads.soon(done.append, number)
        gate.set()
        await asyncio.gather(*held)
        threads.answer_within_s = 5.0
        await threads.soon(done.append, 1000)
    assert done == [0, 1000]


async def test_one_file_that_hangs_is_not_the_disk() -> None:
    """While threads are free, others are asked for as ever."""
    tasks, gate = Tasks(), threading.Event()
    async with Threads(disk=2, answer_within_s=0.01) as threads:
        with pytest.raises(TimeoutError):
            await threads.soon(gate.wait, 10)
        assert not threads.hangs
        threads.answer_within_s = 5.0
        assert await threads.soon(divmod, 7, 2) == (3, 1)
        gate.set()
    assert len(tasks) == 0


async def test_a_disk_that_is_read_back_holds_up_no_hash_of_memory() -> None:
    """What hashes while it reads may wait for a disk; what is in memory is hashed all the same."""
    tasks, gate = Tasks(), threading.Event()
    async with Threads(disk=1, hashing=1) as threads:
        reading = [tasks.start(threads.rehash(gate.wait, 10), name="read back") for _ in range(8)]
        assert await threads.hash(divmod, 7, 2) == (3, 1)
        gate.set()
        await asyncio.gather(*reading)
