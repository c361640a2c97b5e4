"""Brings an endpoint back: while its circuit is open, one cheap request at a time, in the background.

No client waits for a probe, and none is one. Nothing runs while the circuit is closed.
"""

import asyncio
from collections.abc import Awaitable, Callable

from proxy.errors import Failure, UpstreamFault
from proxy.failures import policy_of
from proxy.log import logger
from proxy.tasks import Tasks
from proxy.upstream.breaker import Breaker

log = logger("prober")
Sleep = Callable[[float], Awaitable[None]]


class Prober:
    """Watches one breaker. `ping` asks the endpoint's bare `/v2/` and returns the status; `sleep` waits so many
    seconds: given, so that a test turns the time.
    """

    def __init__(
        self,
        name: str,
        breaker: Breaker,
        ping: Callable[[], Awaitable[int]],
        tasks: Tasks,
        sleep: Sleep,
    ) -> None:
        self._name = name
        self._breaker = breaker
        self._ping = ping
        self._tasks = tasks
        self._sleep = sleep
        self._watching: asyncio.Task[None] | None = None
        self._is_closed = False

    def wake(self) -> None:
        """The circuit has opened: watch it, unless somebody does."""
        if self._watching is None and not self._is_closed:
            self._watching = self._tasks.start(self._watch(), name=f"probe {self._name}")

    async def close(self) -> None:
        """End the probe under way, and start no more."""
        self._is_closed = True
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])

    async def _watch(self) -> None:
        log.warning("an endpoint is left alone", endpoint=self._name, next_probe_s=round(self._breaker.wait_s, 1))
        try:
            while self._breaker.is_open:
                await self._sleep(self._breaker.wait_s)
                await self._probe()
        finally:
            self._watching = None
        log.info("an endpoint is asked again", endpoint=self._name)

    async def _probe(self) -> None:
        call = self._breaker.probe()
        if call is None:
            return
        try:
            status = await self._ping()
        except UpstreamFault as error:
            if error.failure is Failure.DESCRIPTORS:  # nobody was asked: that says nothing, and it is asked again
                await self._sleep(error.retry_after_s or 1.0)
                return
            # What is no outage (a lie, say) shows that somebody answers: clients learn the rest.
            if policy_of(error).counts:
                call.failed()
            else:
                call.succeeded()
            log.info("a probe failed", endpoint=self._name, error=str(error))
        except Exception as error:  # ours: if it ended the watch, the endpoint would be left alone for ever
            call.failed()
            log.exception("a probe failed", endpoint=self._name, error=repr(error))
        else:
            if status >= 500:
                call.failed()
            else:
                call.succeeded()
        finally:
            call.abandon()
