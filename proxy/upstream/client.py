"""The upstream port over HTTP: for each source its endpoints, in order, until one answers.

Knows no rules and no store. Another endpoint is tried only before the first byte, and only for an outage or a timeout:
what one registry denies or does not have is an answer.
"""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from yarl import URL

from proxy.errors import UpstreamFault, UpstreamTimeout, UpstreamUnavailable
from proxy.log import public_url
from proxy.oci import Digest
from proxy.rules import Source
from proxy.tasks import Tasks
from proxy.upstream import blobs, contexts, manifests
from proxy.upstream.base import BlobBody, Listing, ManifestBody, ManifestHead, Priority, Upstreams
from proxy.upstream.contexts import Contexts
from proxy.upstream.credentials import Credentials, Reading, read
from proxy.upstream.dialler import Names, Resolver, SystemResolver
from proxy.upstream.egress import Egress
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.session import Observer, Wire, require_compiled_parser, unobserved
from proxy.upstream.settings import Settings, UpstreamSettings

Value = TypeVar("Value")
LINGER_S: Final = 30.0  # a transfer that was cut comes back within this
IDLE_LOOKS: Final = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration with what was read from files for it: `Clients.take` needs no disk any more."""

    config: Settings
    contexts: Contexts
    credentials: Reading


class Clients(Upstreams):
    """Every upstream of a configuration. `async with Clients(config, tasks) as upstreams:` closes all connections."""

    def __init__(
        self,
        config: Settings,
        tasks: Tasks,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        environ: Mapping[str, str] = os.environ,
        resolver: Resolver | None = None,
        on_request: Observer = unobserved,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        require_compiled_parser()
        self._tasks = tasks
        self._clock = clock
        self._monotonic = monotonic
        self._environ = environ
        self._observer = on_request
        self._pause = pause
        self._credentials = Credentials(config.credentials, monotonic=monotonic)
        self._system = SystemResolver()  # starts no thread until it is asked
        self._names = Names(resolver or self._system, tasks, monotonic=monotonic)
        self._endpoints: dict[str, dict[str, Endpoint]] = {}
        self._pinned: dict[tuple[str, str], Endpoint] = {}
        self._left: dict[str, dict[str, Endpoint]] = {}  # of upstreams that are configured no more, while in use
        self._leaving: set[Endpoint] = set()
        self._config, self._contexts = config, contexts.read(config.upstreams)
        self._endpoints = self._opened(config, self._contexts)

    async def __aenter__(self) -> "Clients":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every connection."""
        listed = [endpoint for endpoints in self._endpoints.values() for endpoint in endpoints.values()]
        for endpoint in (*listed, *self._pinned.values(), *self._leaving):
            await endpoint.wire.close()
        self._system.close()

    def endpoints(self, upstream: str) -> list[Endpoint]:
        """The endpoints of an upstream, in the configured order; for health and metrics."""
        return list(self._endpoints.get(upstream, {}).values())

    # Taking another configuration

    def plan(self, config: Settings) -> Plan:
        """Read what another configuration names. Blocks, and changes nothing; raises ConfigInvalid."""
        return Plan(config, contexts.read(config.upstreams, self._contexts), read(config.credentials))

    def take(self, plan: Plan) -> None:
        """From now on the planned configuration, whole or (ConfigInvalid) not at all.

        An endpoint whose settings are the same stays, with its connections, tokens, breaker and quota. What runs at
        another goes on there, and its connections are closed once nobody has used them for a while.
        """
        endpoints = self._opened(plan.config, plan.contexts)
        kept = {endpoint for opened in endpoints.values() for endpoint in opened.values()}
        gone = [endpoint for opened in self._endpoints.values() for endpoint in opened.values() if endpoint not in kept]
        gone += self._pinned.values()
        self._left |= {name: opened for name, opened in self._endpoints.items() if name not in endpoints}
        self._pinned.clear()
        self._endpoints, self._config, self._contexts = endpoints, plan.config, plan.contexts
        self._credentials.take(plan.config.credentials, plan.credentials)
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
                    endpoint = self._open(name, listed.url, upstream, context)
                opened[name][endpoint.origin] = endpoint
        return opened

    async def _see_off(self, gone: Sequence[Endpoint]) -> None:
        """Close endpoints once they are idle at two looks, longer apart than any transfer rests between two tries."""
        looks = 0
        while looks < IDLE_LOOKS:
            await self._pause(LINGER_S)
            looks = 0 if any(endpoint.slots.used for endpoint in gone) else looks + 1
        for endpoint in gone:
            self._leaving.discard(endpoint)
            await endpoint.wire.close()
        for name in [name for name, opened in self._left.items() if self._leaving.isdisjoint(opened.values())]:
            del self._left[name]

    def _open(self, name: str, text: str, settings: UpstreamSettings, context: ssl.SSLContext) -> Endpoint:
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
        )
        return Endpoint(wire, self._credentials, self._tasks, clock=self._clock, monotonic=self._monotonic)

    def _candidates(self, source: Source) -> list[Endpoint]:
        """Where to ask: the pinned endpoint alone, else all, those whose circuit is open last."""
        known = self._endpoints.get(source.upstream) or self._left.get(source.upstream)
        if known is None:
            raise UpstreamUnavailable(source.upstream, "no such upstream is configured")
        if source.endpoint is not None:
            return [known.get(str(URL(source.endpoint.rstrip("/")))) or self._pin(source.upstream, source.endpoint)]
        return sorted(known.values(), key=lambda endpoint: endpoint.breaker.is_open)

    def _pin(self, upstream: str, url: str) -> Endpoint:
        """An endpoint that only a rule names."""
        if (upstream, url) not in self._pinned:
            settings = self._config.upstreams.get(upstream)
            if settings is None:
                raise UpstreamUnavailable(upstream, "no such upstream is configured")
            self._pinned[(upstream, url)] = self._open(upstream, url, settings, self._contexts.of(upstream))
        return self._pinned[(upstream, url)]

    async def _first(self, source: Source, call: Callable[[Endpoint], Awaitable[Value]]) -> Value:
        """The first endpoint's answer that is no outage, else the first outage."""
        failed: UpstreamUnavailable | UpstreamTimeout | None = None
        for endpoint in self._candidates(source):
            try:
                return await call(endpoint)
            except (UpstreamUnavailable, UpstreamTimeout) as error:
                failed = failed or error
        raise failed or UpstreamUnavailable(source.upstream, "it has no endpoint")

    async def head_manifest(self, source: Source, target: str | Digest) -> ManifestHead:
        limit = self._config.limits.max_manifest_bytes
        return await self._first(
            source, lambda endpoint: manifests.head(endpoint, source.repository, target, source.credentials, limit)
        )

    async def get_manifest(self, source: Source, target: str | Digest) -> ManifestBody:
        limit = self._config.limits.max_manifest_bytes
        return await self._first(
            source, lambda endpoint: manifests.get(endpoint, source.repository, target, source.credentials, limit)
        )

    async def head_blob(self, source: Source, digest: Digest) -> int | None:
        return await self._first(
            source, lambda endpoint: blobs.head(endpoint, source.repository, digest, source.credentials)
        )

    @asynccontextmanager
    async def get_blob(
        self, source: Source, digest: Digest, *, offset: int = 0, priority: Priority = Priority.CLIENT
    ) -> AsyncIterator[BlobBody]:
        limit = self._config.limits.max_blob_bytes
        async with AsyncExitStack() as stack:
            yield await self._first(
                source,
                lambda endpoint: stack.enter_async_context(
                    blobs.receive(
                        endpoint,
                        source.repository,
                        digest,
                        source.credentials,
                        offset=offset,
                        priority=priority,
                        limit=limit,
                    )
                ),
            )

    async def tags(self, source: Source, query: dict[str, str]) -> Listing:
        return await self._list("tags", source, f"{source.repository}/tags/list", query)

    async def referrers(self, source: Source, digest: Digest, query: dict[str, str]) -> Listing:
        return await self._list("referrers", source, f"{source.repository}/referrers/{digest}", query)

    async def _list(self, kind: str, source: Source, path: str, query: dict[str, str]) -> Listing:
        limit = self._config.limits.max_manifest_bytes
        return await self._first(
            source, lambda endpoint: manifests.listing(endpoint, kind, path, query, source.credentials, limit)
        )

    async def ping(self, upstream: str) -> dict[str, int | str]:
        """`GET /v2/` on every endpoint, all at once: its status (401 is healthy), or a word for what is wrong."""
        endpoints = self.endpoints(upstream)
        answers = await asyncio.gather(*map(_ping, endpoints))
        return {public_url(endpoint.origin): answer for endpoint, answer in zip(endpoints, answers, strict=True)}


async def _ping(endpoint: Endpoint) -> int | str:
    try:
        return await endpoint.ping()
    except UpstreamFault as error:
        return error.reason
