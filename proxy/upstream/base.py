"""The port to upstream registries: what may be asked, and what comes back. Frozen facts, already checked for shape."""

import enum
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from proxy.errors import UpstreamUnavailable
from proxy.oci import Digest
from proxy.rules import Source

Buffer = bytes | memoryview


class Priority(enum.Enum):
    """Who waits: a client that has a part of its body and hangs on the rest, a client, or background hydration (a
    quarter of an upstream's connections is kept for clients).
    """

    MIDWAY = "midway"
    CLIENT = "client"
    BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class ManifestHead:
    """A HEAD answer. Any fact may be missing (public.ecr.aws sends no digest: protocol U19)."""

    digest: Digest | None
    media_type: str | None
    size: int | None
    origin: str


@dataclass(frozen=True, slots=True)
class ManifestBody:
    """A GET answer: the exact bytes (within `max_manifest`), identity-encoded; hashing is the caller's."""

    body: bytes
    media_type: str | None
    digest: Digest | None
    origin: str


@dataclass(frozen=True, slots=True)
class BlobBody:
    """A blob being received: `chunks` starts at byte `start` (0 if the upstream ignored the Range); `size` is the whole
    blob's length, None if the upstream did not tell. Reading raises UpstreamUnavailable on a cut, UpstreamTimeout on a
    stall.
    """

    start: int
    size: int | None
    chunks: AsyncIterator[Buffer]
    origin: str


@dataclass(frozen=True, slots=True)
class Listing:
    """One page of `tags/list` or `referrers`: the body as received, and the query of its `Link: rel=next`, if any."""

    body: bytes
    media_type: str | None
    next_query: dict[str, str] | None
    filters_applied: str | None = None


class Upstreams(Protocol):
    """Every registry we pull from. Raises UpstreamUnavailable, UpstreamTimeout, UpstreamThrottled, UpstreamDenied,
    UpstreamNotFound, UpstreamLied (and their children); nothing else.
    """

    async def head_manifest(self, source: Source, target: str | Digest) -> ManifestHead:
        """HEAD a manifest, always with the full Accept list; falls back to GET where HEAD does not work (U18)."""

    async def get_manifest(self, source: Source, target: str | Digest) -> ManifestBody: ...

    async def head_blob(self, source: Source, digest: Digest) -> int | None:
        """Show that the repository holds a blob; its size if told. HEAD, else GET of one byte (U16)."""

    def get_blob(
        self,
        source: Source,
        digest: Digest,
        *,
        offset: int = 0,
        stop: int | None = None,
        priority: Priority = Priority.CLIENT,
        is_urgent: Callable[[], bool] = lambda: False,
    ) -> AbstractAsyncContextManager[BlobBody]:
        """Receive a blob from `offset` on (`Range: bytes=OFFSET-`), or the bytes before `stop` of that; leaving the
        context before the body's end closes the connection.

        BACKGROUND may be refused (UpstreamThrottled) for the sake of clients, and is held to the bandwidth of
        hydration until `is_urgent` says that a client waits for this body after all.
        """

    def in_trouble(self, source: Source) -> bool:
        """Whether an endpoint of the source is left alone now, so that what it lacks is not known."""

    def left_alone(self, source: Source) -> UpstreamUnavailable | None:
        """The error of any request now, if every endpoint of the source is left alone: nothing need be begun."""

    async def tags(self, source: Source, query: dict[str, str]) -> Listing: ...

    async def referrers(self, source: Source, digest: Digest, query: dict[str, str]) -> Listing: ...
