"""Manifests: fetched whole, hashed, checked for shape, kept as blobs with a link; served byte for byte.

A digest is held under a place only by a link, so a manifest fetched elsewhere is fetched again here: that GET is the
proof. Cache trouble never fails a fetch that the upstream could serve.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cachetools import LRUCache

from proxy.errors import ManifestUnknown, NotKept, UpstreamLied, UpstreamNotFound, WrongDigest
from proxy.events import IntegrityFailed, NotStored, StoreReplaced
from proxy.flights import Flights
from proxy.ground import Ground
from proxy.log import logger
from proxy.oci import Descriptor, Digest, ManifestAmbiguous, parse_manifest
from proxy.rules import Place, Source
from proxy.store.base import Link, Parent
from proxy.upstream.base import ManifestBody

log = logger("manifests")
MEMORY: Final = 64 << 20  # bytes of manifest bodies kept in memory


@dataclass(frozen=True, slots=True)
class Held:
    """A manifest with its body. `origin` is the endpoint that gave it, None when it was here; `unkept` is why it is not
    stored, None if it is.
    """

    descriptor: Descriptor
    body: bytes
    origin: str | None = None
    unkept: str | None = None


class Manifests:
    """Every manifest known under some place."""

    def __init__(self, ground: Ground) -> None:
        self._store = ground.blobs
        self._records = ground.records
        self._index = ground.index
        self._threads = ground.threads
        self._upstreams = ground.upstreams
        self._events = ground.events
        self._tasks = ground.tasks
        ground.events.listen(StoreReplaced, self._hear_replaced)
        self._capacity = ground.capacity
        self._fetches: Flights[tuple[Source, str | Digest], Held] = Flights(ground.tasks, "fetch manifest")
        self._bodies: LRUCache[Digest, bytes] = LRUCache(MEMORY, getsizeof=len)
        self.on_forgotten: Callable[[], object] | None = None
        self.forgotten = 0  # grows with every body that was deleted: what was held at one value is held at it still

    def _hear_replaced(self, _: StoreReplaced) -> None:
        self._tasks.start(self._put_again(), name="keep manifests again")

    async def _put_again(self) -> None:
        """Keep again what is in memory: it would be served from there, and be gone after the next start.

        No room is asked for: a directory just laid out has not been counted yet, and held all of this before.
        """
        for digest, body in list(self._bodies.items()):
            await self._kept_again(digest, body)

    async def put_again(self, digest: Digest) -> bool:
        """Keep a body again that is in memory; whether that was done. It was whole when it came there."""
        body = self._bodies.get(digest)
        if body is None:
            return False
        try:
            claim = self._capacity.claim(len(body), small=True)
        except NotKept:
            return False
        try:
            return await self._kept_again(digest, body)
        finally:
            claim.release()

    async def _kept_again(self, digest: Digest, body: bytes) -> bool:
        try:
            await self._store.put(body, digest)
        except OSError as error:
            log.warning("a manifest could not be kept again", digest=str(digest), error=str(error))
            return False
        return True

    async def held(self, place: Place, digest: Digest) -> Held | None:
        """The manifest, if this place holds it and its bytes are here and whole."""
        link = await self._records.link(place, digest)
        if link is None or link.media_type is None:
            return None
        body = self._bodies.get(digest)
        if body is None:
            body = await self._load(digest)
        if body is None:
            return None
        return Held(Descriptor(link.media_type, digest, len(body)), body)

    async def _load(self, digest: Digest) -> bytes | None:
        try:
            found = await self._store.read(digest)
            if found is None:
                return None
            try:
                body = await self._threads.disk(_read_all, found.file)
            except OSError as error:
                found.failed(error)
                raise
            finally:
                found.close()
        except OSError as error:
            log.warning("a stored manifest cannot be read", digest=str(digest), error=str(error))
            return None
        if not digest.matches(body):
            await self._store.condemn(digest, "a manifest's bytes do not hash to it")
            return None
        self._remember(digest, body)
        return body

    async def fetch(self, source: Source, target: str | Digest) -> Held:
        """GET a manifest from its upstream, once for all who ask meanwhile; checked, then kept.

        Raises ManifestUnknown, WrongDigest, UpstreamLied and what the upstream port raises.
        """
        return await self._fetches.fly((source, target), lambda: self._fetch(source, target))

    async def _fetch(self, source: Source, target: str | Digest) -> Held:
        try:
            answer = await self._upstreams.get_manifest(source, target)
        except UpstreamNotFound as cause:
            raise ManifestUnknown(f"{source.upstream} has no manifest {target} in {source.repository}") from cause
        digest = self._verified_digest(source, target, answer)
        try:
            manifest = parse_manifest(answer.body, answer.media_type)
        except ManifestAmbiguous as cause:
            raise UpstreamLied(source.upstream, f"manifest {target} is refused: {cause}") from cause
        unkept = await self._keep(source.place, digest, manifest.media_type, answer.body)
        if unkept is None:
            parent = Parent(source.place, digest, manifest.media_type, None)
            children = [(c.descriptor.digest, c.descriptor.size, c.is_manifest) for c in manifest.children]
            await self._index.save_manifest(parent, children)
        first = await self._records.link(source.place, digest)
        media_type = first.media_type if first is not None and first.media_type else manifest.media_type
        return Held(Descriptor(media_type, digest, len(answer.body)), answer.body, answer.origin, unkept)

    def _verified_digest(self, source: Source, target: str | Digest, answer: ManifestBody) -> Digest:
        """The digest that the body really has; what was asked for and what the header claims must both be true."""
        for claimed in (target if isinstance(target, Digest) else None, answer.digest):
            if claimed is not None and not claimed.matches(answer.body):
                self._events.publish(IntegrityFailed("upstream", claimed, source.place))
                raise WrongDigest(source.upstream, f"the manifest {target} does not hash to {claimed}")
        if isinstance(target, Digest):
            return target
        return answer.digest if answer.digest is not None else Digest.of(answer.body)

    async def _keep(self, place: Place, digest: Digest, media_type: str, body: bytes) -> str | None:
        """Store a manifest; why that could not be, None if it is done."""
        self._remember(digest, body)
        try:
            claim = self._capacity.claim(len(body), small=True)
        except NotKept as refusal:
            self._events.publish(NotStored(place, digest, refusal.why, str(refusal)))
            return refusal.why
        try:
            await self._store.put(body, digest)
            await self._records.save_links([Link(place, digest, media_type, len(body))])
        except OSError as error:
            why = self._capacity.refused(error)
            self._events.publish(NotStored(place, digest, why, str(error)))
            return why
        finally:
            claim.release()
        return None

    def _remember(self, digest: Digest, body: bytes) -> None:
        if len(body) <= MEMORY:
            self._bodies[digest] = body

    def forget(self, digest: Digest) -> None:
        """Drop a body from memory: its blob was deleted."""
        self._bodies.pop(digest, None)
        self.forgotten += 1
        if self.on_forgotten is not None:
            self.on_forgotten()


def _read_all(file: io.FileIO) -> bytes:
    return file.readall() or b""
