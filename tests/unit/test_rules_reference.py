"""Routing against a naive reference that scans all rules, and without a scan of its own."""

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import Config, RuleConfig
from proxy.errors import CisternError, Denied, NameUnknown
from proxy.rules import Place, Rules
from tests.support.ruled import rules_of, source_of

COMPONENTS = st.sampled_from(["a", "b", "c"])
NAMES = st.lists(COMPONENTS, min_size=1, max_size=4).map("/".join)
PATTERNS = st.one_of(NAMES, NAMES.map(lambda name: f"{name}/*"), st.just("*"))


@st.composite
def configs(draw: st.DrawFn) -> Config:
    rules: list[dict[str, Any]] = []
    for index, repository in enumerate(draw(st.lists(PATTERNS, max_size=8, unique=True))):
        literal = draw(NAMES)
        upstream = f"{draw(st.sampled_from(['u.io', 'v.io']))}/{literal}" + ("/*" if repository.endswith("*") else "")
        rules.append({"name": f"r{index}", "repository": repository, "upstream": upstream, "deny": draw(st.booleans())})
    tree = {
        "upstreams": {
            "u.io": {"endpoints": [{"url": "https://u.io"}]},
            "v.io": {"endpoints": [{"url": "https://v.io"}]},
        },
        "registry": {"default_upstream": draw(st.sampled_from(["u.io", None]))},
        "implicit_rules": draw(st.booleans()),
        "rules": rules,
    }
    return Config.parse(tree)


def matches(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) and name != pattern[:-1] if pattern.endswith("*") else name == pattern


def naive(config: Config, name: str, namespace: str | None) -> tuple[str, str] | type[CisternError]:
    """The contract's paragraph, sentence by sentence, with a scan over all rules."""

    def best(found: list[tuple[RuleConfig | None, str]]) -> tuple[RuleConfig | None, str] | None:
        ranked = sorted(
            enumerate(found),
            key=lambda item: (
                item[1][1].endswith("*"),
                -len(item[1][1]),
                item[1][0] is None,
                item[1][0] is not None and not item[1][0].deny,
                item[0],
            ),
        )
        return ranked[0][1] if ranked else None

    def by_upstream(target: str) -> tuple[RuleConfig | None, str] | None:
        sides: list[tuple[RuleConfig | None, str]] = [(rule, str(rule.upstream)) for rule in config.rules]
        sides += [(None, f"{upstream}/*") for upstream in config.upstreams if config.implicit_rules]
        return best([(rule, side) for rule, side in sides if matches(side, target)])

    first = name.partition("/")[0]
    rule: RuleConfig | None = None
    if namespace is not None:
        target = f"{namespace}/{name.removeprefix(f'{namespace}/')}"
    elif first in config.upstreams and "/" in name:
        target = name
    else:
        paths = [(rule, str(rule.repository)) for rule in config.rules if matches(str(rule.repository), name)]
        chosen = best([(rule.replaced(deny=False), side) for rule, side in paths])
        rule = chosen[0] if chosen else None
        if rule is not None:
            side = str(rule.upstream)
            target = side[:-1] + name[len(str(rule.repository)) - 1 :] if side.endswith("*") else side
        elif "." in first or config.registry.default_upstream is None:
            return NameUnknown
        else:
            target = f"{config.registry.default_upstream}/{name}"
    judge = by_upstream(target)
    if judge is None:
        return NameUnknown
    if judge[0] is not None and judge[0].deny:
        return Denied
    taken = rule or judge[0]
    return (target.partition("/")[0] if taken is None else taken.name), target


ASKED = st.one_of(NAMES, NAMES.map(lambda name: f"u.io/{name}"), NAMES.map(lambda name: f"w.io/{name}"))


@given(configs(), ASKED, st.sampled_from([None, "u.io", "v.io"]))
@settings(max_examples=1000, deadline=None)
def test_routing_agrees_with_a_scan_over_all_rules(config: Config, name: str, namespace: str | None) -> None:
    """The tables find what the contract's words find, for any rules and any name."""
    try:
        route = Rules(config).route(name, namespace=namespace)
        found: Any = (route.rule, source_of(route))
    except CisternError as error:
        found = type(error)
    assert found == naive(config, name, namespace)


@given(configs(), NAMES)
@settings(max_examples=300, deadline=None)
def test_what_leads_to_a_place_is_found_without_a_scan(config: Config, repository: str) -> None:
    """As one rule after the other would say it, in the order of matching."""
    rules, place = Rules(config), Place("u.io", repository)
    scanned = [route for view in rules.listing() if (route := rules.route_in(view.name, place)) is not None]
    assert [route.rule for route in rules.leading_to(place)] == [route.rule for route in scanned]
    assert list(rules.leading_to(Place("w.io", repository))) == []


def test_many_rules_cost_no_more_than_few() -> None:
    """Each of 5000 rules is found, by its own path and by its upstream's name."""
    lines = "\n".join(f"- {{name: r{n}, repository: t{n}/*, upstream: quay.io/t{n}/*}}" for n in range(5000))
    rules = rules_of(f"rules:\n{lines}")
    for n in random.Random(7).sample(range(5000), 100):
        assert rules.route(f"t{n}/x").rule == rules.route(f"t{n}/x", namespace="quay.io").rule == f"r{n}"
