"""The stage of a fault row: a scripted upstream whose road can be spoilt, a cache before it, and clients that judge.

The same rows play here against Cistern in this process, and in `benchmarks.faults` against processes: what stands
between is `Subject`. Knows registries, bytes and time limits; nothing of how a cache works.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from proxy.oci import Digest
from tests.support.cdn import Cdn
from tests.support.faults import FaultProxy
from tests.support.images import Blob, Image, blob, manifest
from tests.support.pulling import Pulling
from tests.support.realm import Bearer, Realm
from tests.support.registry import Registry
from tests.support.wire import Answer, Recorded

MIB = 1 << 20
REPOSITORY = "team/app"
TAG = "1"
IMAGE = manifest(blob(2 * MIB + 777))
NEWER = manifest(blob(2 * MIB + 778))


class Subject(Protocol):
    """A cache under test."""

    @property
    def netloc(self) -> str: ...

    @property
    def prefix(self) -> str:
        """What stands before the repository in its paths."""

    def committed(self, digest: Digest) -> bytes | None:
        """The bytes that it holds for good under this digest, None if there are none."""

    async def quiet(self) -> None:
        """Return when nothing is on its way from the upstream any more."""

    async def age(self, seconds: float) -> None:
        """Let so much time pass for what it remembers: tags, tokens, breakers."""

    async def signal(self, metric: str) -> float | None:
        """The sum of a metric over its labels; None: it has no such metrics."""


class Doored(Registry):
    """A registry that answers only while its door is open: so that a whole crowd has come before the first answer."""

    def __init__(self) -> None:
        super().__init__()
        self.door = asyncio.Event()
        self.door.set()

    async def answer(self, request: Recorded) -> Answer:
        await self.door.wait()
        return await super().answer(request)


@dataclass(slots=True)
class Stage:
    """One upstream: a registry behind a road, with a realm and a data host for the rows that want them."""

    registry: Doored
    realm: Realm
    cdn: Cdn
    road: FaultProxy
    image: Image = IMAGE
    newer: Image = NEWER

    @property
    def url(self) -> str:
        """Where a cache finds this upstream."""
        return self.road.url

    @property
    def layer(self) -> Blob:
        return self.image.layers[0]

    def wants_tokens(self) -> None:
        """From now on the registry asks for a token of the realm."""
        self.registry.authority = Bearer(self.realm)

    def redirects(self) -> None:
        """From now on blobs come from the data host, by signed URLs."""
        self.registry.redirect_blobs = self.cdn.sign

    def move(self) -> None:
        """The tag stands for the newer image from now on; the older one stays, untagged."""
        self.registry.add(REPOSITORY, TAG, self.newer)

    def heal(self) -> None:
        """No fault is left, whichever it was."""
        for site in (self.registry, self.realm, self.cdn):
            site.heal()
        self.road.heal()

    def forget(self) -> None:
        """Count from here on."""
        for site in (self.registry, self.realm, self.cdn):
            site.forget()

    def asked(self, target: Digest | str) -> int:
        """GETs of a blob, GETs and HEADs of a tag, answered or not; those only challenged do not count."""
        methods = ("GET", "HEAD") if target == TAG else ("GET",)
        return sum(self.registry.requests_for(target, method) for method in methods)

    def copies(self) -> float:
        """Bytes of the layer that left the upstream, in sizes of the layer."""
        answered = [got for got in self.registry.recorded(self.layer.digest) if got.status in (200, 206)]
        return sum(got.sent_bytes for got in (*answered, *self.cdn.fetches_of(self.layer))) / self.layer.size


@asynccontextmanager
async def staged(clock: Callable[[], float] | None = None) -> AsyncIterator[Stage]:
    """A stage with its image, honest until told otherwise. Tokens and signatures expire by `clock`."""
    async with AsyncExitStack() as stack:
        registry = await stack.enter_async_context(Doored())
        realm = await stack.enter_async_context(Realm(clock=clock))
        cdn = await stack.enter_async_context(Cdn(clock=clock))
        road = await stack.enter_async_context(FaultProxy("127.0.0.1", registry.port))
        registry.add(REPOSITORY, TAG, IMAGE)
        yield Stage(registry, realm, cdn, road)


# Clients


@dataclass(slots=True)
class Visit:
    """One crowd of clients at a subject. `patience_s` is how long each waits before it calls the cache hung."""

    stage: Stage
    subject: Subject
    clients: int
    patience_s: float
    seconds: list[float] = field(default_factory=list)
    _sent: int = 0

    async def crowd(self, play: "Play") -> list[str]:
        """What became of each client, a word each (see `outcome`). The upstream answers once all have asked."""
        self._sent = 0
        self.stage.registry.door.clear()
        try:
            return await asyncio.gather(*(self._one(play, part) for part in range(self.clients)))
        finally:
            self.stage.registry.door.set()

    async def _one(self, play: "Play", part: int) -> str:
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.patience_s):
                return await play(self, part)
        except TimeoutError:
            return "hung"
        except (ConnectionError, asyncio.IncompleteReadError):
            return "broken"
        finally:
            self.seconds.append(asyncio.get_running_loop().time() - started)

    async def start(self, kind: str, target: object, *, method: str = "GET", **headers: str) -> Pulling:
        path = f"/v2/{self.subject.prefix}{REPOSITORY}/{kind}/{target}"
        pulling = await Pulling.start(self.subject.netloc, path, method=method, headers=ACCEPT | headers)
        self._sent += 1
        if self._sent >= self.clients:
            self.stage.registry.door.set()
        return pulling


# A client's part in a row, as number so-and-so of the crowd.
Play = Callable[[Visit, int], Coroutine[None, None, str]]
ACCEPT = {"Accept": "application/vnd.oci.image.manifest.v1+json, */*"}


def outcome(pulling: Pulling, wanted: bytes) -> str:
    """One word: `exact` (all bytes, complete), `stale` (the same, and marked), `wrong` (complete, other bytes), or the
    status, with `+` where it says when to come back.
    """
    if pulling.status not in (200, 206):
        return f"{pulling.status}{'+' if 'Retry-After' in pulling.headers else ''}"
    if pulling.body != wanted:
        return "wrong"
    return "stale" if "Warning" in pulling.headers else "exact"


async def layer(visit: Visit, part: int) -> str:
    """GET the layer from the client's own offset on; number 0 takes it whole."""
    wanted = visit.stage.layer
    start = wanted.size * part // visit.clients
    pulling = await visit.start("blobs", wanted.digest, **({"Range": f"bytes={start}-"} if start else {}))
    try:
        await pulling.rest()
    finally:
        await pulling.leave()
    return outcome(pulling, wanted.data if pulling.status == 200 else wanted.data[start:])


async def config(visit: Visit, _part: int) -> str:
    """GET the config, which is smaller than what is held back of a large blob."""
    wanted = visit.stage.image.blobs[0]
    pulling = await visit.start("blobs", wanted.digest)
    await pulling.rest()
    return outcome(pulling, wanted.data)


async def tag(visit: Visit, _part: int) -> str:
    """GET the manifest by its tag; what came must have the digest that its header tells."""
    pulling = await visit.start("manifests", TAG)
    body = await pulling.rest()
    if pulling.status != 200:
        return outcome(pulling, b"")
    told = pulling.headers["Docker-Content-Digest"]
    known = {str(image.digest): image.manifest.data for image in (visit.stage.image, visit.stage.newer)}
    word = outcome(pulling, known.get(told, b""))
    return f"{word} old" if _is_old(visit.stage, told) and word != "wrong" else word if body else "wrong"


async def digest(visit: Visit, _part: int) -> str:
    """GET the manifest by its digest."""
    pulling = await visit.start("manifests", visit.stage.image.digest)
    await pulling.rest()
    return outcome(pulling, visit.stage.image.manifest.data)


async def head_then_moved(visit: Visit, _part: int) -> str:
    """HEAD the tag, which then moves upstream, and GET the digest that was told."""
    asked = await visit.start("manifests", TAG, method="HEAD")
    await asked.rest()
    visit.stage.move()
    pulling = await visit.start("manifests", asked.headers.get("Docker-Content-Digest", "none"))
    await pulling.rest()
    known = {str(image.digest): image.manifest.data for image in (visit.stage.image, visit.stage.newer)}
    return outcome(pulling, known.get(pulling.headers.get("Docker-Content-Digest", ""), b""))


async def manifest_then_moved(visit: Visit, part: int) -> str:
    """GET the manifest by tag, which then moves upstream, and GET the layer that it named."""
    got = await tag(visit, part)
    visit.stage.move()
    return await layer(visit, part) if got in ("exact", "exact old") else got


def _is_old(stage: Stage, told: str) -> bool:
    return told != str(stage.registry.repositories[REPOSITORY].tags.get(TAG))
