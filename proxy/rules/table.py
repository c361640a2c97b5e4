"""One side of the rules, ready to match: most specific first, in a few looks, however many rules there are."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from proxy.rules.words import RuleView


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule to match. `within` (in `upstream`) and `repository` are whole names, or what stands before the star."""

    view: RuleView
    upstream: str
    within: str
    repository: str | None
    is_wildcard: bool

    def covers(self, repository: str) -> bool:
        """The rule's upstream side matches this repository of its upstream."""
        if self.is_wildcard:
            return repository.startswith(self.within) and len(repository) > len(self.within)
        return repository == self.within


class Table:
    """The rules of one side, by whole name and by literal before the star."""

    __slots__ = ("_exact", "_longest", "_others", "_prefixes")

    def __init__(self) -> None:
        self._exact: dict[str, Rule] = {}
        self._prefixes: dict[str, Rule] = {}
        self._others: dict[tuple[str, bool], list[Rule]] = {}  # of one literal, those that another stands for
        self._longest = 0

    def add(self, literal: str, rule: Rule) -> None:
        """Enter a rule; of several with one literal the first stands for it, but a denial before all others."""
        table = self._prefixes if rule.is_wildcard else self._exact
        self._longest = max(self._longest, len(literal))
        held = table.setdefault(literal, rule)
        if held is rule:
            return
        if rule.view.deny and not held.view.deny:
            table[literal], rule = rule, held
        self._others.setdefault((literal, rule.is_wildcard), []).append(rule)

    def standing(self, literal: str, *, is_wildcard: bool) -> Rule | None:
        """The rule that stands for exactly this literal."""
        return (self._prefixes if is_wildcard else self._exact).get(literal)

    def find(self, name: str) -> Rule | None:
        """The most specific rule for a name: the exact one, else the longest over it."""
        return self._exact.get(name) or next(self.over(name), None)

    def every(self, name: str) -> Iterator[Rule]:
        """Of the upstream side: every rule for a name, the most specific first, and after each one those of the same
        literal that it stands for.
        """
        exact = self._exact.get(name)
        for rule in chain(() if exact is None else (exact,), self.over(name)):
            yield rule
            yield from self._others.get((rule.within, rule.is_wildcard), ())

    def over(self, literal: str) -> Iterator[Rule]:
        """The wildcard rules over a name, or over another's literal, longest first; never that literal itself."""
        # Nothing longer than the longest rule can stand over it: a name of 127 components costs no more than one of 5.
        end = literal.rfind("/", 0, max(min(len(literal) - 1, self._longest), 0))
        while end >= 0:
            rule = self._prefixes.get(literal[: end + 1])
            if rule is not None:
                yield rule
            end = literal.rfind("/", 0, end)
        rule = self._prefixes.get("")
        if rule is not None and literal:
            yield rule
