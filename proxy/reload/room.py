"""Takes another configuration over while serving: read and checked in a thread, then swapped in one step of the loop.

One reload runs at a time; what asks meanwhile asks for one more after it, so that the last file is always the one that
counts. A configuration that is refused changes nothing at all. Requests that run keep what they began with.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.collector import undisturbed
from proxy.config import Config, fixed
from proxy.current import Current
from proxy.errors import ConfigInvalid
from proxy.events import ConfigRefused, ConfigTaken, Events
from proxy.log import logger
from proxy.reload.files import Marks, Source, look
from proxy.rules import Rules
from proxy.server.certificate import Certificate, context_of
from proxy.store.threads import Threads
from proxy.upstream.client import Clients
from proxy.upstream.endpoints import Plan

log = logger("reload")
LOOK_EVERY_S: Final = 1.0
READ_WITHIN_S: Final = 60.0  # 100 000 rules take two seconds; a network mount may hang for ever
PROBLEMS_MAX: Final = 100  # told of one file; `cistern check` tells all


@dataclass(frozen=True, slots=True)
class Found:
    """All that was read for one reload. `waiting` are the keys that keep their running value until a restart."""

    config: Config
    waiting: tuple[str, ...]
    cautions: tuple[str, ...]
    rules: Rules
    plan: Plan
    context: ssl.SSLContext | None


class Reload:
    """The reloads of one server. Set `asked` to ask for one: signals do, and `watch` does for changed files."""

    def __init__(
        self,
        source: Source,
        current: Current,
        upstreams: Clients,
        certificate: Certificate | None,
        events: Events,
        threads: Threads,
        *,
        asked: asyncio.Event,
        read_within_s: float = READ_WITHIN_S,
    ) -> None:
        self._source = source
        self._current = current
        self._upstreams = upstreams
        self._certificate = certificate
        self._events = events
        self._threads = threads
        self._asked = asked
        self._read_within_s = read_within_s
        self._seen: Marks = source.marks | look(source.files(current.config) - source.marks.keys())

    async def run(self) -> None:
        """Reload whenever it is asked for, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()  # before reading: what changes meanwhile asks again
            await self.reload()

    async def watch(self, pause: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        """Ask for a reload when a file is another one, and was the same at two looks: it may still be written. Until
        cancelled.
        """
        before = self._seen
        while True:
            await pause(LOOK_EVERY_S)
            seen = self._seen
            now: Marks = await self._threads.disk(look, tuple(seen))
            if seen is self._seen and now == before and now != seen:
                self._seen = now
                self._asked.set()
            before = now

    async def reload(self) -> bool:
        """Read everything anew and take it; whether it was taken. A refusal is told by an event."""
        try:
            async with asyncio.timeout(self._read_within_s):
                found = await self._threads.disk(self._read)
            self._upstreams.take(found.plan)  # first: it may refuse
        except ConfigInvalid as refused:
            return self._refused(refused.problems)
        except TimeoutError:
            return self._refused([f"its files could not be read within {self._read_within_s:g} s"])
        except Exception as error:  # ours, and no reason to stop serving
            log.exception("a reload failed", error=repr(error))
            kind = type(error).__name__
            return self._refused([f"an internal error, please report it: {kind}; the log has its trace"])
        # No await from here on: a request sees all of the old configuration, or all of the new one.
        blocked = found.config.block - self._current.blocked
        self._current.take(found.config, found.rules)
        if self._certificate is not None and found.context is not None:
            self._certificate.take(found.context)
        self._events.publish(ConfigTaken(found.config, found.waiting, blocked, found.cautions))
        return True

    def _refused(self, problems: Sequence[str]) -> bool:
        told, more = tuple(problems[:PROBLEMS_MAX]), len(problems) - PROBLEMS_MAX
        self._events.publish(ConfigRefused(told if more <= 0 else (*told, f"and {more} more: see `cistern check`")))
        return False

    def _read(self) -> Found:
        """All that files say now. Blocks; changes nothing but what is watched. Raises ConfigInvalid."""
        running = self._current.config
        seen = look(self._source.files(running))  # before reading: what changes meanwhile is another one
        try:
            loaded = self._source.load()
            seen |= look(self._source.files(loaded) - seen.keys())
        finally:
            self._seen = seen
        config, waiting = fixed(running, loaded)
        tls = config.registry.tls
        context = None if tls is None else context_of(tls.certificate, tls.key)
        with undisturbed():
            rules = Rules(config)
            rules.listing()  # sorted here and now: of many rules that would hold up the loop
        cautions = tuple(self._source.cautions(config))
        found = Found(config, waiting, cautions, rules, self._upstreams.plan(config), context)
        self._seen = {path: seen[path] for path in self._source.files(loaded)}
        return found
