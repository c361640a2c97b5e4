"""The upstream port over HTTP: for each source its endpoints, in order, until one answers.

Knows no rules and no store. Another endpoint is tried only before the first byte, and only for an outage or a timeout:
what one registry denies or does not have is an answer.
"""

import asyncio
import os
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from yarl import URL

from proxy.errors import ConfigInvalid, UpstreamFault, UpstreamTimeout, UpstreamUnavailable
from proxy.log import public_url
from proxy.oci import Digest
from proxy.rules import Source
from proxy.tasks import Tasks
from proxy.upstream import blobs, manifests
from proxy.upstream.base import BlobBody, Listing, ManifestBody, ManifestHead, Priority, Upstreams
from proxy.upstream.credentials import Credentials
from proxy.upstream.dialler import Names, Resolver, SystemResolver
from proxy.upstream.egress import Egress
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.session import Observer, Wire, require_compiled_parser, unobserved
from proxy.upstream.settings import Settings

Value = TypeVar("Value")


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Verified TLS 1.2 or later by the system's roots, and by `ca` beside them; raises ConfigInvalid."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except (OSError, ssl.SSLError) as cause:
            raise ConfigInvalid([f"{ca}: tls.ca: no certificates can be read from it"]) from cause
    return context


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
    ) -> None:
        require_compiled_parser()
        self._config = config
        self._tasks = tasks
        self._clock = clock
        self._monotonic = monotonic
        self._environ = environ
        self._observer = on_request
        self._credentials = Credentials(config.credentials, monotonic=monotonic)
        self._system = SystemResolver()  # starts no thread until it is asked
        self._names = Names(resolver or self._system, tasks, monotonic=monotonic)
        self._default_context = tls_context(None)
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._endpoints: dict[str, dict[str, Endpoint]] = {}
        self._pinned: dict[tuple[str, str], Endpoint] = {}
        for name, upstream in config.upstreams.items():
            for endpoint in upstream.endpoints:
                opened = self._open(name, endpoint.url)
                self._endpoints.setdefault(name, {})[opened.origin] = opened

    async def __aenter__(self) -> "Clients":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every connection."""
        listed = [endpoint for endpoints in self._endpoints.values() for endpoint in endpoints.values()]
        for endpoint in (*listed, *self._pinned.values()):
            await endpoint.wire.close()
        self._system.close()

    def endpoints(self, upstream: str) -> list[Endpoint]:
        """The endpoints of an upstream, in the configured order; for health and metrics."""
        return list(self._endpoints.get(upstream, {}).values())

    def _open(self, name: str, text: str) -> Endpoint:
        settings = self._config.upstreams[name]
        if settings.tls.ca is not None and name not in self._contexts:
            self._contexts[name] = tls_context(settings.tls.ca)
        url = URL(text.rstrip("/"))
        wire = Wire(
            name,
            url,
            settings,
            names=self._names,
            context=self._contexts.get(name, self._default_context),
            egress=Egress(settings.proxy, self._environ),
            monotonic=self._monotonic,
            observer=self._observer,
        )
        return Endpoint(wire, self._credentials, self._tasks, clock=self._clock, monotonic=self._monotonic)

    def _candidates(self, source: Source) -> list[Endpoint]:
        """Where to ask: the pinned endpoint alone, else all, those whose circuit is open last."""
        if source.upstream not in self._config.upstreams:
            raise UpstreamUnavailable(source.upstream, "no such upstream is configured")
        known = self._endpoints[source.upstream]
        if source.endpoint is not None:
            return [known.get(str(URL(source.endpoint.rstrip("/")))) or self._pin(source.upstream, source.endpoint)]
        return sorted(known.values(), key=lambda endpoint: endpoint.breaker.is_open)

    def _pin(self, upstream: str, url: str) -> Endpoint:
        """An endpoint that only a rule names."""
        if (upstream, url) not in self._pinned:
            self._pinned[(upstream, url)] = self._open(upstream, url)
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
