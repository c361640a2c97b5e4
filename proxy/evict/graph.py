"""Who needs what: every image with what it reaches, how many images need each digest, and what no image reaches. Pure.

Made from one look at what is here. Dropping an image from the graph tells what goes with it: what no other image needs,
in any place. Invariant: a digest is told to go only when the last image that needs it is dropped.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from proxy.holdings import HeldImage
from proxy.oci import Digest
from proxy.rules import Place

Key = tuple[Place, Digest]


@dataclass(frozen=True, slots=True)
class Node:
    """One image: `manifests` are those of its digests that are manifests; `rule` leads to it, None if none does;
    `since` is when it came, as far as is known (Unix seconds). `is_guess`: nobody knows what it needs, and `reach` is
    all that it may be.
    """

    key: Key
    tags: tuple[str, ...]
    reach: frozenset[Digest]
    manifests: frozenset[Digest]
    rule: str | None
    since: float = 0.0
    is_guess: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """What goes with an image: `content` no image needs any more, `links` no image of its place does."""

    node: Node
    content: tuple[Digest, ...]
    links: tuple[Digest, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class Prospect:
    """What no image reaches, what each rule's images take, and how many bytes could go at most."""

    unused: tuple[Digest, ...]
    by_rule: Mapping[str, int]
    freeable: int


class Graph:
    """The images of one moment. `taken` is what each stored digest takes on the disk, in bytes."""

    def __init__(self, nodes: Iterable[Node], taken: Mapping[Digest, int]) -> None:
        self.nodes = {node.key: node for node in nodes}
        self.taken = taken
        self._users = Counter(digest for node in self.nodes.values() for digest in node.reach)
        self._users_here = Counter((node.key[0], digest) for node in self.nodes.values() for digest in node.reach)
        self._guesses = Counter(node.key[0] for node in self.nodes.values() if node.is_guess)

    def size(self, node: Node) -> int:
        """What an image takes with all that it shares."""
        return sum(self.taken.get(digest, 0) for digest in node.reach)

    def own(self, node: Node) -> list[Digest]:
        """What goes when this image does: its manifests, and what no other image needs."""
        return [digest for digest in node.reach if digest in node.manifests or self._users[digest] == 1]

    def goes_in_vain(self, node: Node) -> bool:
        """Whether nothing would be freed by it, since an image of its place may need all that it has."""
        return not node.is_guess and bool(self._guesses[node.key[0]])

    def unused(self) -> list[Digest]:
        """What is stored and no image reaches."""
        return [digest for digest in self.taken if digest not in self._users]

    def freeable(self, is_busy: Callable[[Digest], bool]) -> int:
        """At most so many bytes could go now: what no image needs whose own content is busy."""
        stays = {digest for node in self.nodes.values() if any(map(is_busy, self.own(node))) for digest in node.reach}
        return sum(size for digest, size in self.taken.items() if digest not in stays and not is_busy(digest))

    def by_rule(self) -> dict[str, int]:
        """What each rule's images take, each digest once."""
        held: dict[str, set[Digest]] = {}
        for node in self.nodes.values():
            if node.rule is not None:
                held.setdefault(node.rule, set()).update(node.reach)
        return {rule: sum(self.taken.get(digest, 0) for digest in digests) for rule, digests in held.items()}

    def prospect(self, is_busy: Callable[[Digest], bool]) -> "Prospect":
        """What making room begins with; takes a while for many digests."""
        return Prospect(tuple(self.unused()), self.by_rule(), self.freeable(is_busy))

    def drop(self, key: Key) -> Dropped:
        """Take an image out; what goes with it, manifests first: what is half gone is refused at its manifest."""
        node = self.nodes.pop(key)
        self._guesses[key[0]] -= node.is_guess
        content: list[Digest] = []
        links: list[Digest] = []
        for digest in sorted(node.reach, key=lambda digest: digest not in node.manifests):
            self._users[digest] -= 1
            self._users_here[key[0], digest] -= 1
            if not self._users[digest]:
                del self._users[digest]
                content.append(digest)
            if not self._users_here[key[0], digest]:
                del self._users_here[key[0], digest]
                links.append(digest)
        return Dropped(node, tuple(content), tuple(links), sum(self.taken.get(digest, 0) for digest in content))


def graph_of(
    images: Sequence[HeldImage],
    taken: Mapping[Digest, int],
    rule_of: Mapping[Place, str | None],
    used: Mapping[Digest, float],
) -> Graph:
    """The graph of what was found; `used` tells when manifests were last fetched. Takes a while for many images: not
    for the event loop.
    """
    return Graph(
        (
            Node(
                (image.place, image.digest),
                tuple(image.tags),
                frozenset(image.reach()),
                frozenset((image.digest, *image.manifests)),
                rule_of.get(image.place),
                min((record.first_seen for record in image.tags.values()), default=used.get(image.digest, 0.0)),
                any(held.is_guess for held in image.manifests.values()),
            )
            for image in images
        ),
        taken,
    )
