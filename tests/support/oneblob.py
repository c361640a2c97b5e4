"""An upstream port over memory that holds one blob: what it answers to a request for it is each test's own."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from proxy.errors import UpstreamUnavailable
from proxy.oci import Digest
from proxy.rules import Source
from proxy.upstream.base import BlobBody, Listing, ManifestBody, ManifestHead, Priority
from tests.support.images import Blob


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: where it began, and where it was to end."""

    start: int
    stop: int | None
    priority: Priority


class BlobsOnly(ABC):
    """Has one blob, `wanted`, and nothing else."""

    wanted: Blob

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
        return self.answer(source, Asked(offset, stop, priority))

    @abstractmethod
    def answer(self, source: Source, asked: Asked) -> AbstractAsyncContextManager[BlobBody]:
        """The answer to one request for the blob."""

    def left_alone(self, source: Source) -> UpstreamUnavailable | None:
        return None

    def in_trouble(self, source: Source) -> bool:
        return False

    async def head_blob(self, source: Source, digest: Digest) -> int | None:
        return self.wanted.size

    async def head_manifest(self, source: Source, target: str | Digest) -> ManifestHead:
        raise UpstreamUnavailable("up.example", "it has blobs only")

    async def get_manifest(self, source: Source, target: str | Digest) -> ManifestBody:
        raise UpstreamUnavailable("up.example", "it has blobs only")

    async def tags(self, source: Source, query: dict[str, str]) -> Listing:
        raise UpstreamUnavailable("up.example", "it has blobs only")

    async def referrers(self, source: Source, digest: Digest, query: dict[str, str]) -> Listing:
        raise UpstreamUnavailable("up.example", "it has blobs only")


@dataclass
class OneBlob(BlobsOnly):
    """Answers honestly. `asked` are the offsets."""

    wanted: Blob
    asked: list[int] = field(default_factory=list)

    @asynccontextmanager
    async def answer(self, source: Source, asked: Asked) -> AsyncIterator[BlobBody]:
        self.asked.append(asked.start)
        yield BlobBody(asked.start, self.wanted.size, self._chunks(asked.start), "memory")

    async def _chunks(self, offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, self.wanted.size, 65536):
            yield self.wanted.data[start : start + 65536]
