"""What goes to make room: nothing of a live image, shared layers last, a rule over its share first."""

import itertools
from collections.abc import Iterable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from proxy.evict.choice import GLANCES, Loose, brought_up_to_date, choose
from proxy.evict.graph import Dropped, Graph, Key, Node
from proxy.evict.policy import S3Fifo
from proxy.oci import Digest
from proxy.rules import Place

CAME = itertools.count(1.0)  # images come in the order in which a test makes them
PLACE, OTHER = Place("one.test", "team/app"), Place("two.test", "team/app")


def digest(name: str) -> Digest:
    return Digest.of(name.encode())


def image(name: str, *layers: str, place: Place = PLACE, rule: str | None = "one") -> Node:
    """An image of one manifest and these layers."""
    manifest = digest(name)
    reach = frozenset((manifest, *map(digest, layers)))
    return Node((place, manifest), (name,), reach, frozenset((manifest,)), rule, next(CAME))


def sized(*nodes: Node, loose: Iterable[str] = (), size: int = 10) -> Graph:
    taken = {found: size for node in nodes for found in node.reach} | {digest(name): size for name in loose}
    return Graph(nodes, taken)


def chosen(
    graph: Graph,
    wanted: int,
    *,
    busy: Iterable[str] = (),
    used: Iterable[Node] = (),
    limits: Mapping[str, int] | None = None,
) -> list[Loose | Dropped]:
    """What would go to free so many bytes."""
    policy: S3Fifo[Key] = S3Fifo()
    brought_up_to_date(policy, graph, {})
    brought_up_to_date(policy, graph, {node.key[1]: 2 for node in used})
    left = [wanted]
    found: list[Loose | Dropped] = []
    spared = set(map(digest, busy))
    prospect = graph.prospect(spared.__contains__)
    for piece in choose(graph, prospect, policy, lambda: left[0], spared.__contains__, limits or {}):
        if piece is not None:
            left[0] -= piece.bytes
            found.append(piece)
    return found


def names(pieces: Iterable[Loose | Dropped]) -> list[str]:
    return [piece.node.tags[0] if isinstance(piece, Dropped) else "loose" for piece in pieces]


def test_nothing_goes_when_nothing_is_wanted() -> None:
    """Room enough: nothing is touched, not even what nobody needs."""
    assert chosen(sized(image("a", "x"), loose=["l"]), 0) == []


def test_what_no_image_reaches_goes_first() -> None:
    """Then images, the oldest first."""
    graph = sized(image("a", "x"), image("b", "y"), loose=["l", "m"])
    assert names(chosen(graph, 25)) == ["loose", "loose", "a"]


def test_an_image_goes_whole_and_its_shared_layers_stay() -> None:
    """What another image needs is not freed; with the last image that needs it, it goes."""
    one, two = image("one", "base", "x"), image("two", "base", "y")
    first, second = chosen(sized(one, two), 100)
    assert isinstance(first, Dropped)
    assert isinstance(second, Dropped)
    assert set(first.content) == {digest("one"), digest("x")}
    assert set(second.content) == {digest("two"), digest("base"), digest("y")}
    assert first.content[0] == digest("one"), "the manifest goes before its blobs"
    assert (first.bytes, second.bytes) == (20, 30)


def test_links_go_by_place_and_content_by_everybody() -> None:
    """Content that another place needs stays, though this place no longer holds it."""
    here, there = image("one", "base"), image("one", "base", place=OTHER)
    [first, second] = chosen(sized(here, there), 100)
    assert isinstance(first, Dropped)
    assert isinstance(second, Dropped)
    assert (first.content, set(first.links)) == ((), set(here.reach))
    assert set(second.content) == set(here.reach)


def test_what_is_in_use_stays() -> None:
    """An image whose own content is read, fetched or was asked for stays whole; one that only shares it may go."""
    one, two, three = image("one", "base", "x"), image("two", "base", "y"), image("three", "z")
    assert names(chosen(sized(one, two, three, loose=["l"]), 1000, busy=["x", "base", "l"])) == ["two", "three"]
    assert names(chosen(sized(one, two, three), 1000, busy=["one"])) == ["two", "three"]


def test_one_step_is_short_however_much_there_is() -> None:
    """With thousands of images, most of them in use, no more than GLANCES are looked at before others have a turn."""
    nodes = [image(f"i{n}", f"l{n}") for n in range(3 * GLANCES + 7)]
    graph = sized(*nodes, loose=[f"x{n}" for n in range(2 * GLANCES)])
    policy: S3Fifo[Key] = S3Fifo()
    brought_up_to_date(policy, graph, {})
    asked = 0

    def is_busy(found: Digest) -> bool:
        nonlocal asked
        asked += 1
        return found != digest("l700")

    prospect, steps, found = graph.prospect(lambda _: False), [], list[Dropped]()
    for piece in choose(graph, prospect, policy, lambda: 1000, is_busy, {"one": 10}):
        steps.append(asked)
        asked = 0
        if isinstance(piece, Dropped):
            found.append(piece)
    assert found == [], "an image of which anything is in use stays"
    assert max(steps) <= GLANCES * 2
    assert len(steps) > 4
    assert sum(steps) <= 2 * GLANCES + 2 * len(nodes), "each is judged once"


def test_what_may_be_needed_by_an_image_that_nobody_knows_goes_after_it() -> None:
    """Images beside it would free nothing; those of other places can go, and in its turn it goes, and then they."""
    beside = [image(f"i{n}", f"l{n}") for n in range(GLANCES + 10)]
    reach = frozenset(found for node in beside for found in node.reach) | {digest("unknown")}
    key = (PLACE, digest("unknown"))
    unknown = Node(key, ("unknown",), reach, frozenset({digest("unknown")}), "one", next(CAME), is_guess=True)
    other = image("other", "o", place=OTHER)
    assert names(chosen(sized(*beside, unknown, other), 15, busy=["unknown"])) == ["other"]
    assert names(chosen(sized(*beside, unknown, other), 15)) == ["unknown", "i0"]
    assert names(chosen(sized(*beside, unknown), 15, busy=["unknown"])) == []


def test_what_could_go_at_most() -> None:
    """All but what is busy, and what images need that are."""
    one, two = image("one", "base", "x"), image("two", "base", "y")
    graph = sized(one, two, loose=["l"])

    def freeable(*busy: str) -> int:
        return graph.freeable(set(map(digest, busy)).__contains__)

    assert (freeable(), freeable("l"), freeable("x"), freeable("base"), freeable("x", "y")) == (60, 50, 30, 50, 10)


def test_what_was_pulled_again_goes_last() -> None:
    """A second pull is worth more than a first one that came later."""
    one, two, three = image("one", "x"), image("two", "y"), image("three", "z")
    assert names(chosen(sized(one, two, three), 1000, used=[one])) == ["two", "three", "one"]


def test_a_rule_over_its_share_pays_first() -> None:
    """Its oldest images go until it is under it, used or not; then all others by turns."""
    mine = [image(f"mine{n}", f"m{n}", rule="mine") for n in range(4)]
    others = [image(f"other{n}", f"o{n}", rule="others") for n in range(2)]
    graph = sized(*others, *mine)
    assert names(chosen(graph, 60, used=mine, limits={"mine": 50})) == ["mine0", "mine1", "other0"]


def test_a_rule_over_its_share_costs_nobody_anything_while_there_is_room() -> None:
    """The limit is soft."""
    assert chosen(sized(image("a", "x", rule="mine")), 0, limits={"mine": 1}) == []


def test_the_policy_follows_what_is_here() -> None:
    """Images that are gone are forgotten, new ones enter, sizes follow, and pulls are credited once."""
    policy: S3Fifo[Key] = S3Fifo()
    one, two = image("one", "x"), image("two", "y")
    brought_up_to_date(policy, sized(one, two), {one.key[1]: 1})
    assert (list(policy), policy.bytes) == ([one.key, two.key], 40)
    for _ in range(2):
        brought_up_to_date(policy, sized(one, size=30), {one.key[1]: 3})
    assert (list(policy), policy.bytes, policy.entries[one.key].uses) == ([one.key], 60, 2)


LAYERS = [f"layer{n}" for n in range(6)]
GRAPHS = st.lists(st.tuples(st.sets(st.sampled_from(LAYERS)), st.booleans(), st.booleans()), min_size=1, max_size=8)


@given(GRAPHS, st.integers(0, 200), st.sets(st.sampled_from(LAYERS)))
def test_no_live_image_ever_loses_a_part(
    shapes: list[tuple[set[str], bool, bool]], wanted: int, busy: set[str]
) -> None:
    """Whatever is shared and whatever is in use: what goes is needed by no image that stays, and nothing busy goes."""
    nodes = [
        image(f"image{n}", *layers, place=OTHER if elsewhere else PLACE, rule="one" if ruled else None)
        for n, (layers, elsewhere, ruled) in enumerate(shapes)
    ]
    graph = sized(*nodes, loose=["loose"])
    pieces = chosen(graph, wanted, busy=busy, limits={"one": 40})
    gone = {found for piece in pieces for found in (piece.content if isinstance(piece, Dropped) else (piece.digest,))}
    left = {node.key for node in nodes} - {piece.node.key for piece in pieces if isinstance(piece, Dropped)}
    assert set(graph.nodes) == left
    for node in nodes:
        if node.key in left:
            assert not gone & node.reach
    assert not gone & set(map(digest, busy))
    assert sum(piece.bytes for piece in pieces[:-1]) < max(1, wanted), "no more goes than was wanted"
