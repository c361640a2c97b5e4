"""How a soak's clients pull: plainly, as containerd 2 does, with skopeo, slowly, or leaving half way.

Every byte is compared. A pull ends whole, or with Failed and what was asked of it; a whole body of wrong bytes is an
AssertionError. A part of a body may be wrong when the upstream lied (the rest then never comes), and is Failed too.
"""

import asyncio
import random
import shutil
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from proxy.oci import Digest
from tests.soak.content import HOST, TAG, Content
from tests.support.clients import skopeo_copy, skopeo_holds
from tests.support.images import Blob, Image
from tests.support.pulling import Pulling
from tests.support.raw import RawClient, containerd_fetch

CHUNK: Final = 700_000
SIPS: Final = 12  # reads of a slow reader
PATIENCE_S: Final = 40.0
ACCEPT: Final = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*"
# What a cache may answer for an upstream in trouble; anything else is never right.
TRUE_STATUSES: Final = frozenset({404, 429, 502, 503, 504})


class Failed(Exception):
    """A request of a pull did not end whole. `held`: all that it asked for is known to be here."""

    def __init__(self, what: str, *, held: bool, digest: Digest | None = None) -> None:
        super().__init__(what)
        self.held = held
        self.digest = digest


@dataclass(slots=True)
class Errand:
    """One pull of one repository's tag. `hits` counts the answers, and how many of them came from the cache alone."""

    content: Content
    netloc: str
    repository: str
    rng: random.Random
    scratch: Path
    answers: int = 0
    hits: int = 0
    image: Image | None = None
    told: str = ""
    client: RawClient = field(init=False)

    def __post_init__(self) -> None:
        # Half of the clients name the registry by `ns`, as containerd does, the others by the path.
        by_namespace = self.rng.random() < 0.5
        self.client = RawClient(self.netloc, namespace=HOST if by_namespace else None, header_s=PATIENCE_S)

    def path(self, kind: str, target: object) -> str:
        prefix = "" if self.client.namespace else f"{HOST}/"
        return f"/v2/{prefix}{self.repository}/{kind}/{target}"

    async def ask(self, what: str, path: str, *, held: bool, method: str = "GET") -> bytes:
        """One request, whole; raises Failed."""
        digest = Digest.parse(path.rpartition("/")[2]) if "sha256:" in path else None
        try:
            got = await self.client.ask(method, path, Accept=ACCEPT)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            raise Failed(f"{what}: {error!r}", held=held, digest=digest) from error
        if got.status not in (200, 206):
            assert got.status in TRUE_STATUSES, f"{what}: status {got.status}, {got.body[:300]!r}"
            raise Failed(f"{what}: status {got.status} {got.body[:200]!r}", held=held, digest=digest)
        if method == "GET" and not got.whole:
            raise Failed(f"{what}: the body was cut after {len(got.body)} bytes", held=held, digest=digest)
        self.answers += 1
        self.hits += "; hit" in got.headers.get("Cache-Status", "")
        self.told = got.headers.get("Docker-Content-Digest", "")
        return got.body

    async def resolve(self, *, by_head: bool) -> Image:
        """The image that the tag stands for, its manifest fetched and compared."""
        held = self.content.holds_a_tag(self.repository)
        body = await self.ask("tag", self.path("manifests", TAG), held=held, method="HEAD" if by_head else "GET")
        image = self.content.known(self.repository, self.told)
        assert image is not None, f"the tag of {self.repository} is told as {self.told}, which it never was"
        if by_head:
            path = self.path("manifests", image.digest)
            body = await self.ask("manifest", path, held=self.content.holds(self.repository, image))
        assert body == image.manifest.data, "a wrong manifest"
        self.image = image
        return image

    async def fetch(self, image: Image, part: Blob) -> None:
        held = self.content.holds(self.repository, image)
        body = await self.ask(f"blob of {part.size}", self.path("blobs", part.digest), held=held)
        assert body == part.data, f"wrong bytes of {part.digest}"


async def plain(errand: Errand) -> None:
    """GET by tag, then config and layers at once."""
    image = await errand.resolve(by_head=False)
    await _all(errand.fetch(image, part) for part in image.all_blobs())


async def containerd(errand: Errand) -> None:
    """HEAD by tag, GET by digest, then layers by parallel open-ended ranges that are cut short."""
    image = await errand.resolve(by_head=True)
    await errand.fetch(image, image.blobs[0])
    await _all(_ranged(errand, image, part) for part in image.layers)


async def _ranged(errand: Errand, image: Image, part: Blob) -> None:
    if part.size <= CHUNK:
        return await errand.fetch(image, part)
    held, path = errand.content.holds(errand.repository, image), errand.path("blobs", part.digest)
    try:
        found = await containerd_fetch(errand.client, path, part.size, chunk=CHUNK, parallel=3)
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        raise Failed(f"ranges of {part.size}: {error!r}", held=held, digest=part.digest) from error
    for number, got in enumerate(found):
        wanted = part.data[number * CHUNK : (number + 1) * CHUNK]
        if got.status != 206 or len(got.body) < len(wanted):
            assert got.status in TRUE_STATUSES | {206}, f"status {got.status}"
            raise Failed(f"range {number} of {part.size}: status {got.status}", held=held, digest=part.digest)
        if got.body != wanted:
            raise Failed(f"wrong bytes in range {number}", held=held, digest=part.digest)
        errand.answers += 1
        errand.hits += "; hit" in got.headers.get("Cache-Status", "")
    return None


async def skopeo(errand: Errand) -> None:
    """The real client, by the path."""
    target = errand.scratch / f"skopeo-{errand.rng.getrandbits(64):x}"
    held = all(errand.content.holds(errand.repository, image) for image in errand.content.images[errand.repository])
    try:
        outcome = await skopeo_copy(f"{errand.netloc}/{HOST}/{errand.repository}:{TAG}", target, timeout_s=PATIENCE_S)
        if not outcome.succeeded:
            raise Failed(f"skopeo: {outcome.output[-600:]}", held=held)
        body = await asyncio.to_thread((target / "manifest.json").read_bytes)
        image = errand.content.known(errand.repository, str(Digest.of(body)))
        assert image is not None, "skopeo copied a manifest that never was"
        await asyncio.to_thread(skopeo_holds, target, image)
    finally:
        await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)


async def slow(errand: Errand) -> None:
    """Reads one layer in sips, with pauses."""
    image = await errand.resolve(by_head=True)
    part = errand.rng.choice(image.layers)
    await _read(errand, image, part, part.size, pause_s=0.1)


async def leaver(errand: Errand) -> None:
    """Leaves in the middle of a layer, or before its head."""
    image = await errand.resolve(by_head=False)
    part = errand.rng.choice(image.layers)
    await _read(errand, image, part, errand.rng.choice((0, part.size // 3)), pause_s=0.0)


async def _read(errand: Errand, image: Image, part: Blob, count: int, *, pause_s: float) -> None:
    held, digest = errand.content.holds(errand.repository, image), part.digest
    try:
        pulling = await Pulling.start(errand.netloc, f"/v2/{HOST}/{errand.repository}/blobs/{digest}", window=16_384)
        try:
            while len(pulling.body) < count:
                await asyncio.sleep(pause_s)
                if not await pulling.read(min(count - len(pulling.body), part.size // SIPS + 1)):
                    break
        finally:
            await pulling.leave()
    except (OSError, asyncio.IncompleteReadError) as error:
        raise Failed(f"sips of {part.size}: {error!r}", held=held, digest=digest) from error
    if count and pulling.status != 200:
        assert pulling.status in TRUE_STATUSES, f"status {pulling.status}"
        raise Failed(f"sips of {part.size}: status {pulling.status}", held=held, digest=digest)
    assert len(pulling.body) < part.size or bytes(pulling.body) == part.data, f"wrong bytes of {digest}"
    if len(pulling.body) < count or bytes(pulling.body) != part.data[: len(pulling.body)]:
        what = f"cut after {len(pulling.body)}, {'true' if part.data.startswith(pulling.body) else 'wrong'} bytes"
        raise Failed(f"sips of {part.size}: {what}", held=held, digest=digest)


async def _all(fetches: Iterable[Coroutine[None, None, None]]) -> None:
    """All at once; the first that fails is raised, once all have ended."""
    ended = await asyncio.gather(*fetches, return_exceptions=True)
    for error in sorted((one for one in ended if one is not None), key=lambda one: isinstance(one, Failed)):
        raise error


Client = Callable[[Errand], Coroutine[None, None, None]]
# How often each comes, of all together.
CLIENTS: Final[tuple[tuple[Client, int], ...]] = ((plain, 8), (containerd, 8), (leaver, 3), (slow, 2), (skopeo, 1))
