"""What goes, and in which order, to make so much room. Pure.

First what no image reaches, then images of rules that hold more than their own `max_size`, then images as S3-FIFO says.
Nothing goes of an image while what it has alone is `busy`: being read, being fetched, or asked for a moment ago.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from proxy.evict.graph import Dropped, Graph, Key, Node
from proxy.evict.policy import S3Fifo
from proxy.oci import Digest


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


def choose(
    graph: Graph,
    policy: S3Fifo[Key],
    wanted: Callable[[], int],
    is_busy: Callable[[Digest], bool],
    limits: Mapping[str, int],
) -> Iterator[Loose | Dropped]:
    """What to delete, one by one, for as long as `wanted` tells that bytes are. `limits` are the rules' soft ones.

    Lazy: what was used since the last step is spared in the next one.
    """
    for digest in graph.unused():
        if wanted() <= 0:
            return
        if not is_busy(digest):
            yield Loose(digest, graph.taken[digest])

    def may_go(key: Key) -> bool:
        # A shared layer that another image's clients read is no reason to keep this one: the layer stays anyway.
        return not any(map(is_busy, graph.own(graph.nodes[key])))

    held = graph.by_rule() if limits else {}
    for rule, limit in limits.items():

        def is_over(node: Node, rule: str = rule) -> bool:
            return node.rule == rule

        while wanted() > 0 and held.get(rule, 0) > limit:
            key = policy.evict_any(lambda key: is_over(graph.nodes[key]) and may_go(key))
            if key is None:
                break
            dropped = graph.drop(key)
            held[rule] -= dropped.bytes
            yield dropped
    while wanted() > 0 and (key := policy.evict(may_go)) is not None:
        yield graph.drop(key)
