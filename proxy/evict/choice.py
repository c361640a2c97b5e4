"""What goes, and in which order, to make so much room. Pure.

First what no image reaches, then images of rules that hold more than their own `max_size`, then images as S3-FIFO says.
Nothing goes of an image while what it has alone is `busy`: being read, being fetched, or asked for a moment ago. Where
nobody knows what an image needs, those beside it stay until it goes in its turn: what they have may be its own.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from proxy.evict.graph import Dropped, Graph, Key, Prospect
from proxy.evict.policy import S3Fifo
from proxy.oci import Digest

GLANCES: Final = 256  # images judged, or digests passed over, in one step: a millisecond or two


@dataclass(frozen=True, slots=True)
class Loose:
    """One digest that no image reaches."""

    digest: Digest
    bytes: int


def brought_up_to_date(policy: S3Fifo[Key], graph: Graph, times: Mapping[Digest, int]) -> None:
    """Let the policy know what is here: new images in the order they came, sizes as they are, uses as they were
    counted. The first pull of an image is how it came, and no use.
    """
    for key in [key for key in policy if key not in graph.nodes]:
        policy.remove(key)
    for key, node in sorted(graph.nodes.items(), key=lambda item: (item[1].since, str(item[0][1]))):
        pulled, size = max((times.get(digest, 0) for digest in node.manifests), default=0), graph.size(node)
        policy.insert(key, size, counted=1)
        policy.resize(key, size)
        policy.credit(key, max(1, pulled))


class Glances:
    """Whether images may go, each judged once in a round, and no more than GLANCES of them in one go: `is_spent` then
    says that "none may go" is no answer yet.
    """

    def __init__(self, graph: Graph, is_busy: Callable[[Digest], bool]) -> None:
        self._graph = graph
        self._is_busy = is_busy
        self._left = GLANCES
        self._busy: set[Key] = set()

    @property
    def is_spent(self) -> bool:
        return self._left <= 0

    def renew(self) -> None:
        self._left = GLANCES

    def may_go(self, key: Key) -> bool:
        node = self._graph.nodes[key]
        if self.is_spent or key in self._busy or self._graph.goes_in_vain(node):
            return False
        self._left -= 1
        # A shared layer that another image's clients read is no reason to keep this one: the layer stays anyway.
        if any(map(self._is_busy, self._graph.own(node))):
            self._busy.add(key)
            return False
        return True

    def take(self, look: Callable[[], Key | None], wanted: Callable[[], int]) -> Generator[None, None, Key | None]:
        """The key that `look` finds, None if there is none; pauses each time that the glances were spent before."""
        while (key := look()) is None and self.is_spent and wanted() > 0:
            yield
            self.renew()
        return key


def choose(
    graph: Graph,
    prospect: Prospect,
    policy: S3Fifo[Key],
    wanted: Callable[[], int],
    is_busy: Callable[[Digest], bool],
    limits: Mapping[str, int],
) -> Generator[Loose | Dropped | None, None, None]:
    """What to delete, one by one, for as long as `wanted` tells that bytes are. `limits` are the rules' soft ones.

    Lazy: what was used since the last step is spared in the next one. None: nothing yet, and time that others have a
    turn; however much there is to choose from, one step is short.
    """
    glances = Glances(graph, is_busy)
    yield from _loose(graph, prospect, wanted, is_busy)
    yield from _over_their_limits(graph, prospect, policy, wanted, glances, limits)
    while wanted() > 0:
        key = yield from glances.take(lambda: policy.evict(glances.may_go), wanted)
        if key is None:
            return
        yield graph.drop(key)


def _loose(
    graph: Graph, prospect: Prospect, wanted: Callable[[], int], is_busy: Callable[[Digest], bool]
) -> Generator[Loose | None, None, None]:
    for number, digest in enumerate(prospect.unused, 1):
        if wanted() <= 0:
            return
        if number % GLANCES == 0:
            yield None
        if not is_busy(digest):
            yield Loose(digest, graph.taken[digest])


def _over_their_limits(
    graph: Graph,
    prospect: Prospect,
    policy: S3Fifo[Key],
    wanted: Callable[[], int],
    glances: Glances,
    limits: Mapping[str, int],
) -> Generator[Dropped | None, None, None]:
    for rule, limit in limits.items():
        held = prospect.by_rule.get(rule, 0)

        def may_go(key: Key, rule: str = rule) -> bool:
            return graph.nodes[key].rule == rule and glances.may_go(key)

        while wanted() > 0 and held > limit:
            key = yield from glances.take(partial(policy.evict_any, may_go), wanted)
            if key is None:
                break
            dropped = graph.drop(key)
            held -= dropped.bytes
            yield dropped
