"""What a soak pulls: repositories whose tags move, images that share layers, and which of them are known to be held."""

import random
from dataclasses import dataclass, field
from typing import Final

from proxy.oci import Digest
from tests.support.images import Blob, Image, blob, manifest
from tests.support.registry import Registry

HOST: Final = "soak.test"
TAG: Final = "1"
REPOSITORIES: Final = 10
SIZES: Final = (0, 1, 1000, 65_536, 65_537, 300_000, 1_500_000, 4_000_000)
SHARED: Final = 6  # layers that many images have


@dataclass(slots=True)
class Content:
    """The upstream's content, and what of it was seen to be served from the cache alone."""

    registry: Registry
    rng: random.Random
    images: dict[str, list[Image]] = field(default_factory=dict)
    held: set[tuple[str, Digest]] = field(default_factory=set)
    tainted: set[Digest] = field(default_factory=set)  # wrong bytes of it were once sent, and a part may be kept
    _shared: list[Blob] = field(default_factory=list)
    _made: int = 0

    def fill(self) -> None:
        """The first image of every repository."""
        self._shared = [blob(self.rng.choice(SIZES), seed=-number - 1) for number in range(SHARED)]
        for number in range(REPOSITORIES):
            self.move(f"team/app{number}")

    def move(self, repository: str) -> Image:
        """The repository's tag stands for a new image; the one before it stays pullable by digest."""
        self._made += 1
        own = [blob(self.rng.choice(SIZES), seed=self._made * 10 + part) for part in range(self.rng.randrange(1, 4))]
        layers = {part.digest: part for part in (*own, *self.rng.sample(self._shared, 2))}
        image = manifest(*layers.values(), extra={"annotations": {"made": str(self._made)}})
        self.images.setdefault(repository, []).append(self.registry.add(repository, TAG, image))
        return image

    def forget(self, repository: str, image: Image) -> None:
        """An image that nobody pulls any more leaves the upstream, but for what others share with it."""
        self.images[repository].remove(image)
        self.unhold(repository, image)
        here = self.registry.repositories[repository]
        here.manifests.pop(image.digest, None)
        kept = {part.digest for other in self.images[repository] for part in other.all_blobs()}
        for part in image.all_blobs():
            if part.digest not in kept:
                here.blobs.pop(part.digest, None)

    def current(self, repository: str) -> Image:
        return self.images[repository][-1]

    def known(self, repository: str, digest: str) -> Image | None:
        """The image of this digest, if the repository has or had it under its tag."""
        return next((image for image in self.images[repository] if str(image.digest) == digest), None)

    def hold(self, repository: str, image: Image) -> None:
        self.held.add((repository, image.digest))

    def unhold(self, repository: str, image: Image) -> None:
        self.held.discard((repository, image.digest))

    def holds(self, repository: str, image: Image) -> bool:
        return (repository, image.digest) in self.held

    def holds_a_tag(self, repository: str) -> bool:
        """Whether some image that its tag stood for is held: then the tag is answered whatever the upstream does."""
        return any(self.holds(repository, image) for image in self.images[repository])

    def taint(self, digest: str) -> None:
        """Wrong bytes of it are sent: a part of them may be kept, and then costs one honest pull its body."""
        self.tainted.add(Digest.parse(digest))

    def was_tainted(self, digest: Digest | None) -> str | None:
        """The excuse of a first pull after wrong bytes; None: there were none since the last."""
        if digest is None or digest not in self.tainted:
            return None
        self.tainted.discard(digest)
        return "wrong bytes before"

    def distinct_bytes(self) -> int:
        """The size of everything that may be pulled, each blob once; manifests too."""
        found = {
            part.digest: part.size
            for images in self.images.values()
            for image in images
            for part in (*image.all_manifests(), *image.all_blobs())
        }
        return sum(found.values())
