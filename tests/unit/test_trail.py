"""The hash behind the writes: in order, from memory while it can keep up, read back where it cannot."""

import os
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.downloads.trail import TURN, Trail
from proxy.downloads.window import WINDOW, Window
from proxy.oci import Digest
from proxy.store.threads import Threads
from proxy.tasks import Tasks
from tests.support.waiting import turns

DATA = os.urandom(300_000)


@dataclass
class World:
    """A file of its own, the trail behind it, and how often the file was opened to be read back."""

    path: Path
    threads: Threads
    tasks: Tasks
    window: Window = field(default_factory=Window)
    opened: int = 0

    def trail(self, data: bytes) -> Trail:
        return Trail(Digest.of(data), self.threads, self.tasks, self.share, self.window)

    def share(self) -> int:
        self.opened += 1
        return os.open(self.path, os.O_RDONLY)

    def write(self, trail: Trail, data: bytes, start: int, stop: int, goal: int) -> None:
        """Put a run into the file and tell the trail, as a part does."""
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(data[start:stop])
        self.window.hold(data[start:stop])
        trail.follow(start, [data[start:stop]], goal)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "file").touch()
    async with Threads(hashing=1) as threads, Tasks() as tasks:
        yield World(tmp_path / "file", threads, tasks)


async def test_what_comes_in_order_is_never_read_back(world: World) -> None:
    """Runs that follow each other are hashed from memory, and every buffer is freed."""
    trail = world.trail(DATA)
    for start in range(0, len(DATA), 10_000):
        world.write(trail, DATA, start, start + 10_000, start + 10_000)
    await trail.caught_up(len(DATA))
    assert trail.matches()
    assert (world.opened, world.window.held) == (0, 0)


async def test_what_comes_out_of_order_is_read_back(world: World) -> None:
    """A run beyond a hole is not kept in memory: once the hole is filled it is hashed from the file."""
    trail = world.trail(DATA)
    world.write(trail, DATA, 100_000, 300_000, 0)
    assert world.window.held == 0
    world.write(trail, DATA, 50_000, 100_000, 0)
    world.write(trail, DATA, 0, 50_000, 300_000)
    await trail.caught_up(len(DATA))
    assert trail.matches()
    assert (world.opened, world.window.held) == (1, 0)


async def test_a_hash_that_lags_gets_back_to_memory(world: World) -> None:
    """A kept prefix is read back in bounded turns; what is written after that is hashed from memory again."""
    data = os.urandom(1 << 20) * ((TURN >> 20) * 2 + 1)
    world.path.write_bytes(data[:-2000])
    trail = world.trail(data)
    await trail.caught_up(len(data) - 2000)
    assert world.opened == 3
    world.write(trail, data, len(data) - 2000, len(data), len(data))
    await trail.caught_up(len(data))
    assert trail.matches()
    assert world.opened == 3


async def test_writes_go_on_while_the_hash_stands(world: World) -> None:
    """A busy hash thread delays nobody who writes: the window alone bounds what waits for it."""
    gate = threading.Event()
    held = world.tasks.start(world.threads.hash(gate.wait), name="held")
    trail = world.trail(DATA)
    for start in range(0, len(DATA), 100_000):
        world.write(trail, DATA, start, start + 100_000, start + 100_000)
    assert (trail.hashed, world.window.held) == (0, len(DATA))
    gate.set()
    await held
    await trail.caught_up(len(DATA))
    assert trail.matches()
    assert world.window.held == 0


async def test_a_file_that_cannot_be_read_back_is_told_to_who_waits(world: World) -> None:
    """The error comes with the wait for the digest, and no buffer is held after it."""
    world.path.write_bytes(DATA[:1000])
    trail = world.trail(DATA)
    trail.follow(500, [], 2000)
    with pytest.raises(OSError, match="shorter"):
        await trail.caught_up(2000)
    world.write(trail, DATA, 1000, 2000, 2000)
    assert world.window.held == 0
    with pytest.raises(OSError, match="shorter"):
        await trail.caught_up(2000)


async def test_a_stopped_trail_hashes_no_more(world: World) -> None:
    """After a stop nothing runs and no buffer is held; what is told later is freed at once."""
    trail = world.trail(DATA)
    world.write(trail, DATA, 0, 1000, 1000)
    await trail.stop()
    assert world.window.held == 0
    world.write(trail, DATA, 1000, 2000, 2000)
    assert world.window.held == 0
    await trail.stop()


async def test_the_window_holds_up_who_receives() -> None:
    """Room is waited for while too much is held, and a freed buffer wakes who waits."""
    window, buffer = Window(), memoryview(bytes(WINDOW))
    await window.room()
    window.hold(buffer)
    async with Tasks() as tasks:
        waiting = tasks.start(window.room(), name="receiver")
        await turns()
        assert not waiting.done()
        window.free(buffer)
        await waiting
    assert window.held == 0


async def test_a_file_that_cannot_be_read_back_holds_no_memory(world: World) -> None:
    """What was to be hashed after it is freed: whoever waits for room in the window goes on, and meets the error."""
    world.path.write_bytes(DATA[:100_000])
    trail = world.trail(DATA)
    os.truncate(world.path, 50_000)
    trail.follow(0, [], 100_000)
    await turns()  # it is being read back now
    world.window.hold(DATA[100_000:200_000])
    trail.follow(100_000, [DATA[100_000:200_000]], 200_000)
    with pytest.raises(OSError, match="shorter"):
        await trail.caught_up(200_000)
    assert world.window.held == 0
