"""A config file as plain values that remember where they stand: strict YAML, before any key is judged.

Strict means: duplicate keys are refused, and a plain scalar is `true`, `false`, `null`, a decimal whole number or the
text as written. YAML 1.1 reads `no` as false, `012` as ten and `1:30` as ninety, and keeps the last of two equal keys.
"""

import re
from dataclasses import dataclass, field
from typing import Final

import yaml

from proxy.config.plain import DEPTH_MAX, TAG, StrictLoader, plain

Loc = tuple[str | int, ...]
NODES_MAX: Final = 5_000_000  # 100 000 rules have about a million; an alias bomb has more than there is memory


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where: the file and line, or the variable or flag that set the value."""

    line: int
    origin: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.key}: {self.reason}" if self.key else f"{self.origin}: {self.reason}"


@dataclass(slots=True)
class Tree:
    """`value` is maps, lists and scalars; what a variable or flag has set is marked with its name in `origins`."""

    source: str
    value: dict[str, object] = field(default_factory=dict)
    text: str = ""
    origins: dict[Loc, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    lines: dict[Loc, int] = field(default_factory=dict)

    def refuse(self, loc: Loc, reason: str) -> None:
        """Note a problem at `loc`, or at the nearest place above it that was written down."""
        origin = next((self.origins[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in self.origins), None)
        line = 0 if origin is not None else self._line(loc)
        self.problems.append(Problem(line, origin or f"{self.source}:{line}", ".".join(map(str, loc)), reason))

    def _line(self, loc: Loc) -> int:
        if not self.lines:  # most files have no problem: lines are looked for when the first one is found
            self.lines = read_strictly(self.text, self.source).lines
        return next((self.lines[loc[:n]] for n in range(len(loc), -1, -1) if loc[:n] in self.lines), 1)


def read(text: str, source: str) -> Tree:
    """Parse `text`; what is wrong stands in `problems`, and the rest is still there to be checked."""
    value = plain(text)
    return read_strictly(text, source) if value is None else Tree(source, value, text)


def read_strictly(text: str, source: str) -> Tree:
    """As `read`, node by node, with the line of each."""
    tree = Tree(source, text=text, lines={(): 1})
    loader = StrictLoader(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        tree.lines[()] = mark.line + 1 if mark else 1
        tree.refuse((), error.problem or "not YAML")
        return tree
    except (yaml.YAMLError, RecursionError) as error:
        tree.refuse((), f"not YAML: {getattr(error, 'reason', 'nested too deep')}")
        return tree
    finally:
        loader.dispose()
    value = None if node is None else _Reader(tree).value_of(node, ())
    if value is not None and not isinstance(value, dict):
        tree.refuse((), "must be a map of keys")
    elif isinstance(value, dict):
        tree.value = value
    return tree


class _Reader:
    """Turns nodes into values, noting lines and refusals in the tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._nodes = 0

    def value_of(self, node: yaml.Node, loc: Loc) -> object:
        self._tree.lines[loc] = node.start_mark.line + 1
        self._nodes += 1
        # Depth first: a map that contains itself by an alias ends here.
        if len(loc) > DEPTH_MAX or self._nodes > NODES_MAX:
            if len(loc) > DEPTH_MAX or self._nodes == NODES_MAX + 1:
                self._tree.refuse(loc, "nested too deep, or grown too large by aliases")
            return None
        if isinstance(node, yaml.MappingNode):
            return self._map_of(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self.value_of(item, (*loc, index)) for index, item in enumerate(node.value)]
        return self._scalar_of(node, loc)

    def _map_of(self, node: yaml.MappingNode, loc: Loc) -> dict[str, object]:
        found: dict[str, object] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._tree.lines[(*loc, "?")] = key_node.start_mark.line + 1
                self._tree.refuse((*loc, "?"), "a key must be text")
                continue
            key = str(key_node.value)
            at = (*loc, key)
            if key in found:
                first = self._tree.lines[at]
                self._tree.lines[at] = key_node.start_mark.line + 1
                self._tree.refuse(at, f"duplicate key: it stands in line {first} already")
                self._tree.lines[at] = first
                continue
            found[key] = self.value_of(value_node, at)
            # The key's own line: a block below it starts one line later.
            self._tree.lines[at] = key_node.start_mark.line + 1
        return found

    def _scalar_of(self, node: yaml.Node, loc: Loc) -> object:
        written = str(node.value)
        match node.tag.removeprefix(TAG):
            case "str":
                return written
            case "bool" if written in ("true", "false"):
                return written == "true"
            case "int" if re.fullmatch(r"0|-?[1-9][0-9]{0,15}", written):
                return int(written)
            case "null":
                return None
        self._tree.refuse(loc, f"a tag {node.tag[:40]} has no place here")
        return None
