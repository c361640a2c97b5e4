"""The engine as a serving process sees it: asked over a channel for each request, waited for when it is away.

The listening socket outlives the engine, so a question that is asked while there is none waits for the next one.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from proxy.errors import CisternError, Overloaded
from proxy.workers.channel import Channel, Received, connect
from proxy.workers.wire import WireBroken
from proxy.workers.words import Ask, Hello

AWAY_S: Final = 10.0  # so long a client waits for an engine that is away: one is started again within two seconds
PAUSE_S: Final = 0.05  # between two tries to get in line
IDLE_MAX: Final = 64  # channels kept open for the next questions
TRIES: Final = 3  # engines that may die over one question, or one step of a body


class EngineAway(Overloaded):
    """No engine answers: the one that did is gone, and the next one is not there yet."""

    def __init__(self) -> None:
        super().__init__("the engine of this server is away", retry_after_s=2.0)


class Engine:
    """Questions to the engine that listens at `address`, whichever process that is."""

    def __init__(
        self, address: bytes, *, away_s: float = AWAY_S, connect: Callable[[bytes], Channel] = connect
    ) -> None:
        self._address = address
        self._away_s = away_s
        self._connect = connect
        self._idle: list[Channel] = []

    async def open(self) -> Channel:
        """A channel that an engine has taken. EngineAway: none did in time."""
        return self._kept() or await self._fresh()

    def _kept(self) -> Channel | None:
        """One of those that are kept, None if there is none. Its engine may be gone by now."""
        while self._idle:
            channel = self._idle.pop()
            if channel.is_quiet:
                return channel
            channel.close()
        return None

    async def _fresh(self) -> Channel:
        try:
            async with asyncio.timeout(self._away_s):
                return await self.greeted()
        except TimeoutError:
            raise EngineAway from None

    async def greeted(self) -> Channel:
        """A new channel that an engine has taken, waited for however long it is."""
        while True:
            try:
                channel = self._connect(self._address)
            except BlockingIOError:  # the line is full
                await asyncio.sleep(PAUSE_S)
                continue
            try:
                await channel.expect(Hello)
            except ConnectionError:  # an engine that died with the line in its hands
                channel.close()
                await asyncio.sleep(PAUSE_S)
            except BaseException:
                channel.close()
                raise
            else:
                return channel

    def release(self, channel: Channel) -> None:
        """The question is over, and its channel can take another one."""
        if channel.is_quiet and len(self._idle) < IDLE_MAX:
            self._idle.append(channel)
        else:
            channel.close()

    async def ask(self, question: Ask) -> tuple[Channel, Received]:
        """The channel, the caller's from now on, and what the engine says first; asked again when one dies over it.

        A kept channel that fails says only that its engine is gone, and all that are kept led to that one: they go
        with it. Raises EngineAway, and Overloaded when the answer could not be taken.
        """
        kept = self._kept()
        if kept is not None:
            with suppress(ConnectionError):
                return await _put(kept, question)
            self.close()
        for _ in range(TRIES):
            with suppress(ConnectionError):
                return await _put(await self._fresh(), question)
        raise EngineAway

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


async def _put(channel: Channel, question: Ask) -> tuple[Channel, Received]:
    """Ask over a channel, which is closed if that fails. ConnectionError: its engine is gone."""
    try:
        channel.post(question)
        return channel, await channel.receive()
    except WireBroken as error:  # no descriptor is left for a file, mostly: asked at once again, it would not be either
        channel.close()
        raise Overloaded(f"the engine's answer cannot be taken: {error}", retry_after_s=2.0) from error
    except BaseException:
        channel.close()
        raise


def unexpected(found: Received) -> CisternError:
    """What to raise for an answer that does not belong here."""
    found.drop()
    return CisternError(f"the engine says {type(found.message).__name__}, which is no answer")
