"""The frozen facts that rooms may hear: publish and subscribe, nothing else.

What must travel upward travels as an event: `pull` publishes, `hydrate` and `metrics` hear, and `pull` knows neither.
A listener is a plain function and must not block; one that fails is logged and changes nothing for the publisher.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from proxy.config import Config
from proxy.log import logger
from proxy.oci import Digest
from proxy.rules import Place, Route, Source

log = logger("events")


@dataclass(frozen=True, slots=True)
class ManifestFetched:
    """A client fetched a whole manifest by GET."""

    route: Route
    digest: Digest


@dataclass(frozen=True, slots=True)
class BlobAsked:
    """A client asked for a blob by GET."""

    route: Route
    digest: Digest


@dataclass(frozen=True, slots=True)
class BlobStored:
    """A transfer ended with its blob verified and in the store."""

    place: Place
    digest: Digest
    size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class NotStored:
    """A body was not kept; `reason` is a word of a bounded set; of a transfer that failed, `source` was asked last."""

    place: Place
    digest: Digest | None
    reason: str
    detail: str
    source: Source | None = None


@dataclass(frozen=True, slots=True)
class TransferResumed:
    """A cut transfer went on at `offset` (bytes)."""

    upstream: str
    digest: Digest
    offset: int


@dataclass(frozen=True, slots=True)
class IntegrityFailed:
    """Bytes did not hash to their digest; `where` is upstream, resume or store. `detail` says what became of them."""

    where: str
    digest: Digest
    place: Place | None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Evicted:
    """An image was dropped, or, without a place, content that no image reached; `reach` is what belonged to it, `bytes`
    what went of its content: not all of it if the disk refused.
    """

    place: Place | None
    digest: Digest
    reach: frozenset[Digest]
    bytes: int


@dataclass(frozen=True, slots=True)
class StorageDegraded:
    """The disk refuses what is written to it: bodies are streamed, not kept. `reason` is a word of a bounded set."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class StorageRecovered:
    """The disk takes bodies again."""


@dataclass(frozen=True, slots=True)
class StoreReplaced:
    """Another directory stands where the cache directory stood: what was stored may be gone."""


@dataclass(frozen=True, slots=True)
class TagMoved:
    """A tag resolved to another digest than before."""

    place: Place
    tag: str
    before: Digest
    after: Digest


@dataclass(frozen=True, slots=True)
class TagStale:
    """A tag was served although asking upstream failed."""

    place: Place
    tag: str
    age_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class CredentialJudged:
    """A registry or its token realm accepted a credential set, or refused it; told when that changes."""

    upstream: str
    credentials: str
    accepted: bool

    @property
    def scope(self) -> str:
        """The scope of the places it opens."""
        return Source(self.upstream, "", self.credentials).place.scope


@dataclass(frozen=True, slots=True)
class HydrationEnded:
    """An image's hydration is over: `result` is done or failed."""

    place: Place
    manifest: Digest
    result: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class ConfigTaken:
    """Another configuration is in force. `waiting` are keys that need a restart; `blocked` digests were not before;
    `cautions` is what deserves a word in it.
    """

    config: Config
    waiting: tuple[str, ...]
    blocked: frozenset[Digest]
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigRefused:
    """Another configuration was bad, and the old one stays; `problems` as `FILE:LINE: key: reason`."""

    problems: tuple[str, ...]


Event = TypeVar("Event")


class Events:
    """A board of listeners by event type."""

    def __init__(self) -> None:
        self._listeners: defaultdict[type[Any], list[Callable[[Any], None]]] = defaultdict(list)

    def listen(self, kind: type[Event], listener: Callable[[Event], None]) -> None:
        """Call `listener` with every later event of exactly this type."""
        self._listeners[kind].append(listener)

    def publish(self, event: object) -> None:
        """Tell every listener, in the order they came."""
        for listener in self._listeners[type(event)]:
            try:
                listener(event)
            except Exception:
                log.exception("a listener failed", fact=type(event).__name__)
