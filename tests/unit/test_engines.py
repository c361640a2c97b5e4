"""Engines as a serving process meets them: away for long, killed by a question, dead with channels open, busy."""

import asyncio

import pytest

from proxy.workers.asking import TRIES, Engine, EngineAway
from proxy.workers.channel import Channel, connect, listening
from proxy.workers.words import Ask
from tests.support.asking import QUESTION, Desk, blob


async def test_an_engine_that_stays_away_is_told_in_time() -> None:
    """Nobody takes what waits in line: 503, and how long to wait."""
    with listening() as bound:
        engine = Engine(bytes(bound.getsockname()), away_s=0.05)
        with pytest.raises(EngineAway) as told:
            await engine.ask(QUESTION)
        assert told.value.retry_after_s == 2.0


async def test_a_question_that_kills_engines_is_given_up() -> None:
    """After so many of them."""
    with listening() as bound:
        desk, engine = Desk(bound), Engine(bytes(bound.getsockname()), away_s=5.0)
        asking = asyncio.ensure_future(engine.ask(QUESTION))
        for _ in range(3):
            await desk.take()
            await desk.hears(Ask)
            desk.die()
        with pytest.raises(EngineAway):
            await asking


async def test_channels_of_a_dead_engine_are_no_engines_that_died() -> None:
    """All that were kept fail at the first use, in no time: the next engine is waited for as if there had been none."""
    with listening() as bound:
        desk, engine = Desk(bound), Engine(bytes(bound.getsockname()), away_s=5.0)
        ends = []
        for _ in range(TRIES + 2):
            opening = asyncio.ensure_future(engine._fresh())
            ends.append(await desk.take())
            engine.release(await opening)
        asking = asyncio.ensure_future(engine.ask(QUESTION))
        assert await ends[-1].expect(Ask)
        for end in ends:
            end.close()
        await desk.take()
        assert await desk.hears(Ask) == QUESTION
        desk.says(blob())
        (await asking)[0].close()
        desk.die()


async def test_a_line_that_is_full_is_waited_for() -> None:
    """As long as an engine may be away."""
    with listening() as bound:
        desk, tries = Desk(bound), 0

        def full_at_first(address: bytes) -> Channel:
            nonlocal tries
            tries += 1
            if tries == 1:
                raise BlockingIOError
            return connect(address)

        engine = Engine(bytes(bound.getsockname()), away_s=5.0, connect=full_at_first)
        opening = asyncio.ensure_future(engine.open())
        await desk.take()
        (await opening).close()
        desk.die()
        assert tries == 2
