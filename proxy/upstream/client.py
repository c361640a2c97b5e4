"""The upstream port over HTTP: for each source its endpoints, in order, until one answers (`Attempts`).

Knows no rules and no store.
"""

import asyncio
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from proxy.errors import UpstreamFault, UpstreamUnavailable
from proxy.events import CredentialJudged
from proxy.log import public_url
from proxy.oci import Digest
from proxy.rules import Source
from proxy.tasks import Tasks
from proxy.upstream import blobs, manifests
from proxy.upstream.attempts import Attempts
from proxy.upstream.bandwidth import Sleep, never
from proxy.upstream.base import BlobBody, Buffer, Listing, ManifestBody, ManifestHead, Priority, Upstreams
from proxy.upstream.credentials import unheard
from proxy.upstream.dialler import Resolver
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.endpoints import Endpoints, Plan
from proxy.upstream.session import Observer, require_compiled_parser, unobserved
from proxy.upstream.settings import Settings
from proxy.upstream.state import EndpointState

Value = TypeVar("Value")


class Clients(Upstreams):
    """Every upstream of a configuration. `async with Clients(config, tasks) as upstreams:` closes all connections."""

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
        require_compiled_parser()
        self._monotonic = monotonic
        self._rng = rng
        self._sleep = sleep
        self._attempts: dict[str, Attempts] = {}
        self._endpoints = Endpoints(
            config,
            tasks,
            clock=clock,
            monotonic=monotonic,
            rng=rng,
            sleep=sleep,
            environ=environ,
            resolver=resolver,
            on_request=on_request,
            on_judged=on_judged,
        )

    async def __aenter__(self) -> "Clients":
        await self._endpoints.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every connection."""
        await self._endpoints.close()

    def plan(self, config: Settings) -> Plan:
        """Read what another configuration names. Blocks, and changes nothing; raises ConfigInvalid."""
        return self._endpoints.plan(config)

    def take(self, plan: Plan) -> None:
        """From now on the planned configuration, whole or (ConfigInvalid) not at all; see `Endpoints.take`."""
        self._endpoints.take(plan)
        self._attempts = {name: kept for name, kept in self._attempts.items() if name in plan.config.upstreams}

    def endpoints(self, upstream: str) -> list[Endpoint]:
        """The endpoints of an upstream, in the configured order; for health and metrics."""
        return self._endpoints.of(upstream)

    def states(self, upstream: str) -> list[EndpointState]:
        """How the endpoints of an upstream stand, in the configured order, then those that only rules name."""
        listed = (*self._endpoints.of(upstream), *self._endpoints.pinned(upstream))
        return [endpoint.standing.state() for endpoint in listed]

    def in_trouble(self, source: Source) -> bool:
        """Whether an endpoint that would be asked is left alone now: what it lacks is not known then."""
        return any(endpoint.breaker.is_open for endpoint in self._endpoints.candidates(source))

    def left_alone(self, source: Source) -> UpstreamUnavailable | None:
        errors = [endpoint.standing.left_alone() for endpoint in self._endpoints.candidates(source)]
        return errors[0] if all(errors) else None

    def _attempts_at(self, upstream: str) -> Attempts:
        attempts = self._attempts.get(upstream)
        if attempts is None:
            attempts = Attempts(
                upstream,
                monotonic=self._monotonic,
                rng=self._rng,
                sleep=self._sleep,
                versions=self._endpoints,
            )
            self._attempts[upstream] = attempts
        return attempts

    async def _make(self, source: Source, thing: Hashable, call: Callable[[Endpoint], Awaitable[Value]]) -> Value:
        endpoints = self._endpoints.candidates(source)
        attempts = self._attempts_at(source.upstream)
        return await attempts.make((source, thing), endpoints, call, credentials=source.credentials)

    async def head_manifest(self, source: Source, target: str | Digest) -> ManifestHead:
        limit = self._endpoints.config.limits.max_manifest_bytes
        return await self._make(
            source,
            target,
            lambda endpoint: manifests.head(endpoint, source.repository, target, source.credentials, limit),
        )

    async def get_manifest(self, source: Source, target: str | Digest) -> ManifestBody:
        limit = self._endpoints.config.limits.max_manifest_bytes
        return await self._make(
            source,
            target,
            lambda endpoint: manifests.get(endpoint, source.repository, target, source.credentials, limit),
        )

    async def head_blob(self, source: Source, digest: Digest) -> int | None:
        return await self._make(
            source, digest, lambda endpoint: blobs.head(endpoint, source.repository, digest, source.credentials)
        )

    @asynccontextmanager
    async def get_blob(
        self,
        source: Source,
        digest: Digest,
        *,
        offset: int = 0,
        stop: int | None = None,
        priority: Priority = Priority.CLIENT,
        is_urgent: Callable[[], bool] = never,
    ) -> AsyncIterator[BlobBody]:
        thing, endpoints = (source, digest), self._endpoints.candidates(source)
        attempts = self._attempts_at(source.upstream)
        limit = self._endpoints.config.limits.max_blob_bytes
        async with AsyncExitStack() as stack:

            async def receive(endpoint: Endpoint) -> tuple[Endpoint, BlobBody]:
                receiving = blobs.receive(
                    endpoint,
                    source.repository,
                    digest,
                    source.credentials,
                    offset=offset,
                    stop=stop,
                    priority=priority,
                    is_urgent=is_urgent,
                    limit=limit,
                )
                return endpoint, await stack.enter_async_context(receiving)

            endpoint, body = await attempts.make(
                thing, endpoints, receive, credentials=source.credentials, goes_on=offset > 0
            )
            async with aclosing(_followed(body.chunks, attempts, thing, endpoint)) as chunks:
                yield replace(body, chunks=chunks)

    async def tags(self, source: Source, query: dict[str, str]) -> Listing:
        return await self._list("tags", source, f"{source.repository}/tags/list", query)

    async def referrers(self, source: Source, digest: Digest, query: dict[str, str]) -> Listing:
        return await self._list("referrers", source, f"{source.repository}/referrers/{digest}", query)

    async def _list(self, kind: str, source: Source, path: str, query: dict[str, str]) -> Listing:
        limit = self._endpoints.config.limits.max_manifest_bytes
        thing = (path, tuple(sorted(query.items())))
        return await self._make(
            source, thing, lambda endpoint: manifests.listing(endpoint, kind, path, query, source.credentials, limit)
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


async def _followed(
    chunks: AsyncIterator[Buffer], attempts: Attempts, thing: Hashable, endpoint: Endpoint
) -> AsyncGenerator[Buffer, None]:
    """The chunks of a body, and how it ended told to `attempts`."""
    gained = False
    try:
        async for chunk in chunks:
            gained = True
            yield chunk
    except UpstreamFault as error:
        attempts.broke_off(thing, endpoint, error, gained=gained)
        raise
    attempts.whole(thing)
