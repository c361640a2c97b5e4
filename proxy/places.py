"""How a place is called from outside, and which rule leads there now. Pure."""

from collections.abc import Iterable

from proxy.errors import CisternError
from proxy.holdings import plain_name, upstream_of
from proxy.rules import Place, Rules


def named(rules: Rules, listing: Iterable[str], place: Place) -> tuple[str, str | None]:
    """How a client would write the repository of a place, and the rule that it takes; None if none leads there."""
    plain = plain_name(place)
    try:
        route = rules.route(place.repository, namespace=upstream_of(place))
        if route.place == place:
            return plain, route.rule
    except CisternError:
        pass  # no rule stands for it there, but one by its own path may
    for rule in listing:
        if (route_in := rules.route_in(rule, place)) is not None:
            return _own_name(rules, rule, place) or plain, route_in.rule
    return plain, None


def _own_name(rules: Rules, rule: str, place: Place) -> str | None:
    """The name under a rule's own path."""
    view = next(view for view in rules.listing() if view.name == rule)
    if view.repository is None:
        return None
    within = view.upstream.partition("/")[2].removesuffix("*")
    return view.repository.removesuffix("*") + (
        place.repository.removeprefix(within) if view.repository.endswith("*") else ""
    )
