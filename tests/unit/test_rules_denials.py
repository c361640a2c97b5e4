"""What a rule denies, it denies under every form of the name; and which rule stands of two alike."""

import pytest

from proxy.errors import Denied
from tests.support.ruled import rules_of, source_of

DENIALS = """
rules:
  - {name: hub, repository: dockerhub/*, upstream: docker.io/*}
  - {name: evil-alias, repository: fine/*, upstream: docker.io/evil/*}
  - {name: no-evil, upstream: docker.io/evil/*, deny: true}
  - {name: but-good, repository: good/*, upstream: docker.io/evil/good/*}
  - {name: no-nginx, upstream: docker.io/nginx, deny: true}
"""


@pytest.mark.parametrize(
    "asked",
    [
        {"name": "evil/x", "namespace": "docker.io"},
        {"name": "evil/x", "namespace": "index.docker.io"},
        {"name": "evil/x", "prefix": "docker.io"},
        {"name": "docker.io/evil/x"},
        {"name": "hub/evil/x"},
        {"name": "evil/x"},
        {"name": "dockerhub/evil/x"},
        {"name": "fine/x"},
        {"name": "nginx"},
        {"name": "library/nginx", "namespace": "docker.io"},
        {"name": "dockerhub/nginx"},
        {"name": "dockerhub/library/nginx"},
    ],
)
def test_a_denial_holds_for_every_form_of_a_name(asked: dict[str, str]) -> None:
    """What is denied is the upstream repository: no other path, alias, prefix or rule leads around it."""
    with pytest.raises(Denied):
        rules_of(DENIALS).route(**asked)


def test_an_exception_to_a_denial_is_longer_and_holds_for_every_form() -> None:
    """An allowing rule with a longer upstream side opens its part again, however that is named."""
    rules = rules_of(DENIALS)
    for asked in (
        {"name": "good/x"},
        {"name": "evil/good/x", "namespace": "docker.io"},
        {"name": "dockerhub/evil/good/x"},
    ):
        assert source_of(rules.route(**asked)) == "docker.io/evil/good/x"


def test_of_equals_the_denial_stands() -> None:
    """A denial beside an allowing rule with the same upstream side wins, first or second."""
    for order in (("allow", "deny"), ("deny", "allow")):
        texts = {
            "allow": "{name: a, repository: q/*, upstream: quay.io/x/*}",
            "deny": "{name: d, upstream: quay.io/x/*, deny: true}",
        }
        rules = rules_of(f"rules: [{', '.join(texts[word] for word in order)}]")
        for asked in ({"name": "q/y"}, {"name": "x/y", "namespace": "quay.io"}):
            with pytest.raises(Denied):
                rules.route(**asked)


def test_of_two_rules_with_one_upstream_side_the_first_stands() -> None:
    """A name that says the upstream takes the first rule for it; each rule's own path keeps its own."""
    rules = rules_of(
        "rules:\n"
        "- {name: first, repository: a/*, upstream: quay.io/*, credentials: team}\n"
        "- {name: second, repository: b/*, upstream: quay.io/*}"
    )
    assert rules.route("x/y", namespace="quay.io").rule == "first"
    assert rules.route("b/x/y").rule == "second"
    assert rules.route("b/x/y").place != rules.route("a/x/y").place
    (overlap,) = rules.overlaps()
    assert (overlap.rule, overlap.other) == ("first", "second")
