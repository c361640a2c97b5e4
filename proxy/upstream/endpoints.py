"""The endpoints of a configuration: opened, kept across a reload where they fit, closed when nobody uses them any more.

Knows no request. Invariant: an endpoint whose settings have not changed is the same object after a reload, with its
connections, tokens, breaker and gates; one whose settings have changed takes over breaker, gates and quota.
"""

import asyncio
import os
import random
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from yarl import URL

from proxy.errors import UpstreamUnavailable
from proxy.events import CredentialJudged
from proxy.rules import Source
from proxy.tasks import Tasks
from proxy.upstream import contexts
from proxy.upstream.bandwidth import Background, Bandwidth, Sleep
from proxy.upstream.contexts import Contexts
from proxy.upstream.credentials import Credentials, Reading, read, unheard
from proxy.upstream.dialler import Names, Resolver, SystemResolver
from proxy.upstream.egress import Egress
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.session import Observer, Wire, unobserved
from proxy.upstream.settings import Settings, UpstreamSettings
from proxy.upstream.standing import Standing

LINGER_S: Final = 30.0  # a transfer that was cut comes back within this
IDLE_LOOKS: Final = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration with what was read from files for it: `Endpoints.take` needs no disk any more."""

    config: Settings
    contexts: Contexts
    credentials: Reading


class Endpoints:
    """Every open endpoint."""

    def __init__(
        self,
        config: Settings,
        tasks: Tasks,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        sleep: Sleep = asyncio.sleep,
        environ: Mapping[str, str] = os.environ,
        resolver: Resolver | None = None,
        on_request: Observer = unobserved,
        on_judged: Callable[[CredentialJudged], None] = unheard,
    ) -> None:
        self._tasks = tasks
        self._clock = clock
        self._monotonic = monotonic
        self._rng = rng
        self._sleep = sleep
        self._environ = environ
        self._observer = on_request
        self._credentials = Credentials(
            config.credentials, tasks, monotonic=monotonic, on_judged=on_judged, on_changed=self._changed
        )
        self._system = SystemResolver()  # starts no thread until it is asked
        self._names = Names(resolver or self._system, tasks, monotonic=monotonic)
        self._lines: dict[str, Bandwidth] = {}
        self._background = Background(config.hydrate, monotonic=monotonic)
        self._endpoints: dict[str, dict[str, Endpoint]] = {}
        self._pinned: dict[tuple[str, str], Endpoint] = {}
        self._unpinned: dict[tuple[str, str], Standing] = {}  # of those that were used before the last reload
        self._left: dict[str, dict[str, Endpoint]] = {}  # of upstreams that are configured no more, while in use
        self._leaving: set[Endpoint] = set()
        self.config = config
        self._contexts: Contexts

    async def begin(self) -> None:
        """Read the authorities, and the secrets as far as they give an answer soon: what is held is served without
        them. In threads: whatever mount they lie on, signals are heard. Nothing is asked before. Raises ConfigInvalid.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="authorities")
        try:
            reading = asyncio.get_running_loop().run_in_executor(thread, contexts.read, self.config.upstreams)
            self._contexts = await reading
        finally:
            thread.shutdown(wait=False)
        self._endpoints = self._opened(self.config, self._contexts)
        await self._credentials.begin()

    def _changed(self, credentials: str) -> None:
        """A set has another username or password: the old one's limits are not its own."""
        for standing in (*(endpoint.standing for endpoint in self._open_ones()), *self._unpinned.values()):
            standing.gates.forget(credentials)
            standing.quotas.forget(credentials)

    def _open_ones(self) -> list[Endpoint]:
        listed = [endpoint for endpoints in self._endpoints.values() for endpoint in endpoints.values()]
        return [*listed, *self._pinned.values(), *self._leaving]

    async def version(self, credentials: str) -> int:
        """How often a set has changed, its secret read now."""
        return await self._credentials.current(credentials)

    def last_version(self, credentials: str | None) -> int:
        """How often a set had changed when it was last read."""
        return self._credentials.version(credentials)

    async def close(self) -> None:
        """End every connection."""
        for endpoint in self._open_ones():
            await endpoint.close()
        self._system.close()
        self._credentials.close()

    def of(self, upstream: str) -> list[Endpoint]:
        """The endpoints of an upstream, in the configured order."""
        return list(self._endpoints.get(upstream, {}).values())

    def pinned(self, upstream: str) -> list[Endpoint]:
        """Those that only rules name, as far as they were used."""
        return [endpoint for (name, _), endpoint in self._pinned.items() if name == upstream]

    def candidates(self, source: Source) -> list[Endpoint]:
        """Where to ask: the pinned endpoint alone, else all, in the configured order."""
        known = self._endpoints.get(source.upstream) or self._left.get(source.upstream)
        if known is None:
            raise UpstreamUnavailable(source.upstream, "no such upstream is configured")
        if source.endpoint is not None:
            return [known.get(str(URL(source.endpoint.rstrip("/")))) or self._pin(source.upstream, source.endpoint)]
        return list(known.values())

    def _pin(self, upstream: str, url: str) -> Endpoint:
        """An endpoint that only a rule names."""
        if (upstream, url) not in self._pinned:
            settings = self.config.upstreams.get(upstream)
            if settings is None:
                raise UpstreamUnavailable(upstream, "no such upstream is configured")
            before = self._unpinned.pop((upstream, url), None)
            endpoint = self._open(upstream, url, settings, self._contexts.of(upstream), before)
            self._pinned[(upstream, url)] = endpoint
            endpoint.begin()
        return self._pinned[(upstream, url)]

    def plan(self, config: Settings) -> Plan:
        """Read what another configuration names. Blocks, and changes nothing; raises ConfigInvalid."""
        return Plan(config, contexts.read(config.upstreams, self._contexts), read(config.credentials))

    def take(self, plan: Plan) -> None:
        """From now on the planned configuration, whole or (ConfigInvalid) not at all.

        An endpoint whose settings are the same stays, with its connections and tokens. Under other settings it is
        another one, at which breaker, gates and quota go on. What runs at the old one ends there, and its connections
        are closed once nobody has used them for a while.
        """
        endpoints = self._opened(plan.config, plan.contexts)
        kept = {endpoint for opened in endpoints.values() for endpoint in opened.values()}
        gone = [endpoint for opened in self._endpoints.values() for endpoint in opened.values() if endpoint not in kept]
        gone += self._pinned.values()
        known = self._unpinned | {key: endpoint.standing for key, endpoint in self._pinned.items()}
        self._unpinned = {key: standing for key, standing in known.items() if key[0] in endpoints}
        self._left |= {name: opened for name, opened in self._endpoints.items() if name not in endpoints}
        self._pinned.clear()
        self._endpoints, self.config, self._contexts = endpoints, plan.config, plan.contexts
        self._credentials.take(plan.config.credentials, plan.credentials)
        self._background.take(plan.config.hydrate)
        for endpoint in kept:
            endpoint.begin()
        if gone:
            self._leaving.update(gone)
            self._tasks.start(self._see_off(gone), name="upstream: see off")

    def _opened(self, config: Settings, found: Contexts) -> dict[str, dict[str, Endpoint]]:
        """The endpoints of a configuration: those that are open and fit, else new ones."""
        opened: dict[str, dict[str, Endpoint]] = {}
        for name, upstream in config.upstreams.items():
            known, context = self._endpoints.get(name, {}), found.of(name)
            opened[name] = {}
            for listed in upstream.endpoints:
                endpoint = known.get(str(URL(listed.url.rstrip("/"))))
                if endpoint is None or not endpoint.wire.fits(upstream, context):
                    before = None if endpoint is None else endpoint.standing
                    endpoint = self._open(name, listed.url, upstream, context, before)
                opened[name][endpoint.origin] = endpoint
        return opened

    async def _see_off(self, gone: Sequence[Endpoint]) -> None:
        """Close endpoints once they are idle at two looks, longer apart than any transfer rests between two tries."""
        left = {endpoint for opened in self._left.values() for endpoint in opened.values()}
        for endpoint in gone:
            if endpoint not in left:  # a removed upstream is still asked by what began there
                await endpoint.retire()
        looks = 0
        while looks < IDLE_LOOKS:
            await self._sleep(LINGER_S)
            looks = 0 if any(endpoint.slots.used for endpoint in gone) else looks + 1
        for endpoint in gone:
            self._leaving.discard(endpoint)
            await endpoint.close()
        for name in [name for name, opened in self._left.items() if self._leaving.isdisjoint(opened.values())]:
            del self._left[name]

    def _open(
        self,
        name: str,
        text: str,
        settings: UpstreamSettings,
        context: ssl.SSLContext,
        before: Standing | None,
    ) -> Endpoint:
        url = URL(text.rstrip("/"))
        wire = Wire(
            name,
            url,
            settings,
            names=self._names,
            context=context,
            egress=Egress(settings.proxy, self._environ),
            monotonic=self._monotonic,
            observer=self._observer,
            line=self._line(name, settings.max_bandwidth),
        )
        return Endpoint(
            wire,
            self._credentials,
            self._tasks,
            self._background,
            clock=self._clock,
            monotonic=self._monotonic,
            rng=self._rng,
            sleep=self._sleep,
            before=before,
        )

    def _line(self, name: str, rate: int | None) -> Bandwidth | None:
        """The bandwidth that all endpoints of an upstream share."""
        if rate is None:
            return None
        known = self._lines.get(name)
        if known is None or known.rate != rate:
            known = self._lines[name] = Bandwidth(rate, monotonic=self._monotonic)
        return known
