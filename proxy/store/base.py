"""The ports of the store: five verbs over verified blobs, two against rot, and small durable records.

Blobs: what `stat` finds was whole and verified; adoption is the last step and survives a crash. Manifests are blobs
too. Disks forget all the same, so a blob that is suspect is hashed again before it may end anywhere.
Records cannot be guessed from bytes, so they are durable on their own. The index is derived and may be lost.
"""

import asyncio
import enum
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from proxy.freshness import TagRecord
from proxy.oci import Digest
from proxy.rules import Place


@dataclass(frozen=True, slots=True)
class Stored:
    """One blob of the store: its digest, its size, and what it takes on the disk, in bytes."""

    digest: Digest
    size: int
    taken: int = field(default=0, compare=False)


HOLD: Final = 64 << 10  # bytes at the end of an unverified body that wait for its digest (architecture: "holding back")


class ContentBad(OSError):
    """A stored blob turned out not to hash to its name; it is set aside, and whoever read it must be dropped."""


class Verdict(enum.Enum):
    """What a check found. UNREADABLE: the disk did not give the bytes, for a reason that may pass."""

    WHOLE = "whole"
    BAD = "bad"
    GONE = "gone"
    UNREADABLE = "unreadable"


class OpenBlob:
    """A blob, open for reading until `close`; deleting the blob meanwhile does not disturb it.

    `verdict` is None for a blob that is trusted. Else it is the check that runs: until it says WHOLE the last HOLD
    bytes may not leave. `on_fault` hears of an error that reading met.
    """

    __slots__ = ("_on_fault", "file", "on_close", "size", "verdict")

    def __init__(
        self,
        file: io.FileIO,
        size: int,
        verdict: "asyncio.Future[Verdict] | None" = None,
        on_fault: Callable[[OSError], None] | None = None,
    ) -> None:
        self.file = file
        self.size = size
        self.on_close: Callable[[], object] | None = None  # the store's: nobody reads it here any more
        self.verdict = verdict
        self._on_fault = on_fault

    async def ready(self, offset: int) -> int:
        """Wait until bytes at `offset` may leave; returns where they end for now. Raises ContentBad."""
        if self.verdict is not None and not self.verdict.done() and offset < self.size - HOLD:
            return self.size - HOLD
        if not await self.is_whole():
            raise ContentBad("the stored blob does not hash to its digest; it is fetched again")
        return self.size

    async def is_whole(self) -> bool:
        """Whether all of it may leave; waits for the check of a suspect one."""
        return self.verdict is None or await asyncio.shield(self.verdict) is Verdict.WHOLE

    def memory(self, offset: int, end: int) -> memoryview | None:
        """Nothing of it is in memory."""
        return None

    def failed(self, error: OSError) -> None:
        """Tell the store that reading this file met `error`."""
        if self._on_fault is not None:
            self._on_fault(error)

    def close(self) -> None:
        self.file.close()
        told, self.on_close = self.on_close, None
        if told is not None:
            told()


class BlobStore(Protocol):
    """Content by digest. Every adapter passes tests/contract/test_store.py."""

    async def stat(self, digest: Digest) -> int | None:
        """The size of a stored blob, None if it is not here."""

    async def read(self, digest: Digest) -> OpenBlob | None:
        """The blob open for reading (the caller closes it), None if it is not here. OSError: the disk failed.

        A suspect one is hashed first if it is small: a bad one is then None. A larger one has a `verdict` to wait for.
        """

    async def adopt(self, part: Path, digest: Digest, size: int) -> None:
        """Take a verified, complete part file: sync it, name it by its digest, sync the folder. `part` is gone after.

        The caller has checked size and digest. Idempotent: adopting what is here already drops the part.
        OSError: nothing became visible.
        """

    async def put(self, data: bytes, digest: Digest) -> None:
        """Store a small body (a manifest) whose digest the caller has checked."""

    async def delete(self, digest: Digest) -> None:
        """Forget a blob; nothing if it is not here."""

    def is_read(self, digest: Digest) -> bool:
        """Whether somebody has the blob open, under this name, now."""

    def list(self) -> AsyncIterator[Stored]:
        """Every stored blob, in no order."""

    async def check(self, digest: Digest, pause: Callable[[int], Awaitable[None]]) -> Verdict:
        """Hash a stored blob behind everybody else; a bad one is set aside. `pause` is awaited with the bytes read."""

    async def condemn(self, digest: Digest, why: str) -> None:
        """Set aside a blob that turned out bad: it is not here any more. Nothing if it is not here."""


@dataclass(frozen=True, slots=True)
class Link:
    """Proof that a place holds a digest. `media_type` is the first verified one for a manifest, None for a blob;
    `size` is 0 if nobody told it.
    """

    place: Place
    digest: Digest
    media_type: str | None
    size: int


class Records(Protocol):
    """Tags and links: durable (each `save_*` returns after the disk has it), small, and read from memory mostly."""

    @property
    def changes(self) -> int:
        """Grows with every tag or link that is saved or dropped: what was read at one value still holds at it."""

    def watch(self, told: Callable[[], object]) -> None:
        """From now on `told` is called whenever `changes` has grown, in the same turn of the loop."""

    async def tag(self, place: Place, tag: str) -> TagRecord | None: ...

    async def save_tag(self, place: Place, tag: str, record: TagRecord) -> None: ...

    async def drop_tag(self, place: Place, tag: str) -> None: ...

    async def tags(self, place: Place) -> dict[str, TagRecord]:
        """Every tag of a place."""

    async def link(self, place: Place, digest: Digest) -> Link | None: ...

    def recall_link(self, place: Place, digest: Digest) -> Link | None:
        """The link as far as memory knows it, at once; None also when only the disk does."""

    async def save_links(self, links: Sequence[Link]) -> None: ...

    async def drop_links(self, place: Place, digests: Sequence[Digest]) -> None: ...

    async def refusals(self) -> dict[str, float]:
        """Scopes whose credential was refused, and since when (Unix seconds)."""

    async def save_refusal(self, scope: str, since: float) -> None: ...

    async def drop_refusal(self, scope: str) -> None: ...

    async def places(self) -> Sequence[Place]:
        """Every place with a tag or a link."""

    async def links(self, place: Place) -> Sequence[Link]:
        """Every link of a place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One image to hydrate. Times are Unix seconds; `state` is queued, done or failed."""

    place: Place
    rule: str
    manifest: Digest
    queued_at: float
    due_at: float
    attempts: int = 0
    state: str = "queued"
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Parent:
    """A manifest as the index knows it in one place, and when a client last fetched it by GET (Unix seconds)."""

    place: Place
    digest: Digest
    media_type: str
    fetched_at: float | None


@dataclass(frozen=True, slots=True)
class Rank:
    """One image's place in the eviction policy (see `proxy.evict.policy.Entry`), as it was last written."""

    place: Place
    digest: Digest
    is_main: bool
    order: int
    uses: int
    counted: int


class Index(Protocol):
    """Derived knowledge: may be lost at any time and is rebuilt from the store and the records."""

    async def save_manifest(self, parent: Parent, children: Sequence[tuple[Digest, int, bool]]) -> None:
        """Remember a manifest's children as (digest, size, is_manifest); a later save of the same one wins."""

    async def size_of(self, place: Place, child: Digest) -> int | None:
        """The size that a manifest of this place gives for a child; None if no manifest names it."""

    async def parents_of(self, place: Place, child: Digest) -> Sequence[Parent]:
        """The manifests of this place that name `child` directly."""

    async def children_of(self, place: Place, parent: Digest) -> Sequence[tuple[Digest, int, bool]] | None:
        """A manifest's children in order; None if the index does not know the manifest, or cannot be read now."""

    async def enqueue(self, job: Job) -> bool:
        """Add a job unless one for the same place and manifest is queued; True if it was added."""

    async def jobs(self, state: str | None = None, limit: int = 1000) -> Sequence[Job]:
        """Jobs by `due_at`, oldest first; of one state or of all."""

    async def save_job(self, job: Job) -> bool:
        """Save how a job stands; False if that could not be kept: on disk it stands as before."""

    async def touch(self, digests: Sequence[Digest], now: float) -> None:
        """Note a use; batched, may be lost in a crash."""

    async def last_used(self, digests: Sequence[Digest]) -> dict[Digest, float]: ...

    async def count_uses(self, digests: Sequence[Digest]) -> None:
        """Note one more pull of each manifest; batched, may be lost in a crash."""

    async def times(self) -> dict[Digest, int]:
        """How often each manifest was pulled, as far as anybody counted."""

    async def ranks(self) -> Sequence[Rank]:
        """Every image's place in the eviction policy."""

    async def save_ranks(self, changed: Sequence[Rank], gone: Sequence[tuple[Place, Digest]]) -> None: ...

    async def forget_manifests(self, place: Place, digests: Sequence[Digest]) -> None:
        """They are gone from this place, with their children; and their uses, where no other place has them."""

    async def save_size(self, at: float, taken: int) -> None:
        """Note what the cache took on its disk (bytes) at a time (Unix seconds)."""

    async def sizes(self) -> Sequence[tuple[float, int]]:
        """What was noted lately, oldest first."""
