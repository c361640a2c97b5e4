"""How a place is called from outside, and which rule leads there now. Pure."""

from proxy.errors import CisternError
from proxy.holdings import plain_name, upstream_of
from proxy.rules import Place, Rules


def named(rules: Rules, place: Place) -> tuple[str, str | None]:
    """How a client would write the repository of a place, and the rule that it takes; None if none leads there."""
    plain = plain_name(place)
    try:
        route = rules.route(place.repository, namespace=upstream_of(place))
        if route.place == place:
            return plain, route.rule
    except CisternError:
        pass  # no rule stands for it there, but one by its own path may
    for route in rules.leading_to(place):
        return _own_name(rules, route.rule, place) or plain, route.rule
    return plain, None


def _own_name(rules: Rules, rule: str, place: Place) -> str | None:
    """The name under a rule's own path."""
    view = rules.named(rule)
    if view is None or view.repository is None:
        return None
    within = view.upstream.partition("/")[2].removesuffix("*")
    return view.repository.removesuffix("*") + (
        place.repository.removeprefix(within) if view.repository.endswith("*") else ""
    )
