"""The parent of several processes: each post has one process, whatever dies or hangs, and a stop comes to its end."""

import os
import signal

import pytest

from tests.support.family import DEAF, READY, family


async def test_a_process_that_dies_beside_its_successor_is_followed_by_it() -> None:
    """Nobody else is started for its post, and the next rolling restart replaces the successor."""
    async with family() as kin:
        kin.tell(READY)
        first = await kin.started("server 1")
        await kin.said("announced")
        kin.signal(signal.SIGUSR2)
        second = await kin.started("server 1")
        os.kill(first, signal.SIGKILL)
        await kin.hears(lambda line: line.get("pid") == first and "died" in line.get("event", ""))
        kin.tell(READY)
        assert await kin.said("ready") == second
        kin.signal(signal.SIGUSR2)
        third = await kin.started("server 1")
        kin.tell(READY)
        assert (await kin.event("a serving process was replaced"))["pid"] == third
        kin.signal(signal.SIGTERM)
        assert await kin.ended() == 0
        assert kin.pids("server 1") == [first, second, third]


async def test_one_successor_at_a_time_however_often_it_is_asked_for() -> None:
    """The one that is on its way has its turn first."""
    async with family(servers=2) as kin:
        kin.tell(READY * 2)
        await kin.said("announced")
        kin.signal(signal.SIGUSR2)
        await kin.started("server 1")
        kin.tell(READY)
        await kin.event("a serving process was replaced", "server 1")
        second = await kin.started("server 2")
        kin.signal(signal.SIGUSR2)
        await kin.event("serving processes are replaced")
        kin.tell(READY)
        assert (await kin.event("a serving process was replaced"))["pid"] == second
        kin.tell(READY)
        await kin.event("a serving process was replaced", "server 1")
        kin.signal(signal.SIGTERM)
        assert await kin.ended() == 0
        assert (len(kin.pids("server 1")), len(kin.pids("server 2"))) == (3, 2)


async def test_a_successor_that_never_becomes_ready_is_killed() -> None:
    """The old process stays, the log says so, and the next rolling restart is one like any other."""
    async with family(ready_s=0.2) as kin:
        kin.tell(READY)
        first = await kin.started("server 1")
        await kin.said("announced")
        kin.signal(signal.SIGUSR2)
        hung = await kin.started("server 1")
        assert (await kin.event("a process hangs, and is killed"))["pid"] == hung
        line = await kin.event("a process died before it could take over; the old one stays")
        assert line["code"] == -signal.SIGKILL
        os.kill(first, 0)
        kin.signal(signal.SIGTERM)
        assert await kin.ended() == 0
        assert kin.pids("server 1") == [first, hung]


@pytest.mark.parametrize(("servers", "named"), [(1, "server 1"), (0, "engine")])
async def test_a_first_start_that_hangs_ends_in_words(servers: int, named: str) -> None:
    """The log names who is not ready, and nobody is left."""
    async with family(servers=servers, start_s=0.2) as kin:
        hung = await kin.started(named)
        assert (await kin.event("a process hangs, and is killed"))["pid"] == hung
        assert (await kin.event("cannot start: a process was not ready in time"))["process"] == named
        assert await kin.ended() == 1
        assert not any(line.get("said") == "announced" for line in kin.lines)
        assert len(kin.pids(named)) == 1


async def test_one_that_hangs_in_its_start_later_is_followed_by_another() -> None:
    """The server goes on meanwhile."""
    async with family(start_s=0.9) as kin:
        kin.tell(READY)
        first = await kin.started("server 1")
        await kin.said("announced")
        os.kill(first, signal.SIGKILL)
        hung = await kin.started("server 1")
        assert (await kin.event("a process hangs, and is killed"))["pid"] == hung
        third = await kin.started("server 1")
        kin.tell(READY)
        await kin.hears(lambda line: line.get("said") == "ready" and line["pid"] == third)
        kin.signal(signal.SIGTERM)
        assert await kin.ended() == 0


async def test_an_engine_that_dies_while_clients_drain_is_started_again() -> None:
    """Their answers wait for it. It drains from the start, and ends when they have."""
    async with family() as kin:
        kin.tell(DEAF)
        engine, server = await kin.started("engine"), await kin.started("server 1")
        await kin.said("announced")
        kin.signal(signal.SIGTERM)
        await kin.event("stopping")
        assert await kin.said("draining") == engine
        os.kill(engine, signal.SIGKILL)
        again = await kin.started("engine")
        assert await kin.said("draining") == again
        os.kill(server, signal.SIGUSR1)
        assert await kin.ended() == 0
        assert (kin.pids("engine"), kin.pids("server 1")) == ([engine, again], [server])


async def test_a_process_that_hangs_holds_up_no_stop() -> None:
    """It is killed, and the exit code tells."""
    async with family(leave_s=0.2) as kin:
        kin.tell(DEAF)
        engine, server = await kin.started("engine"), await kin.started("server 1")
        await kin.said("announced")
        os.kill(engine, signal.SIGSTOP)
        kin.signal(signal.SIGTERM)
        assert await kin.ended() == 1
        assert [line["pid"] for line in kin.lines if line.get("event") == "a process hangs, and is killed"] == [
            server,
            engine,
        ]


async def test_a_second_signal_ends_all_at_once() -> None:
    """And none is started for those that it ended."""
    async with family() as kin:
        kin.tell(DEAF)
        await kin.said("announced")
        kin.signal(signal.SIGTERM)
        await kin.event("stopping")
        kin.signal(signal.SIGTERM)
        assert await kin.ended() == 1
        assert len(kin.pids("engine")) == len(kin.pids("server 1")) == 1
