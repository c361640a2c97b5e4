"""The one table of what follows from an upstream's failure: the code's and the page's are the same."""

import re
from typing import Final

import pytest

from proxy.errors import Failure, UpstreamDenied, UpstreamFault, UpstreamSlow, UpstreamThrottled, answer
from proxy.failures import POLICIES, Policy
from tests.house.source import ROOT

PAGE: Final = (ROOT / "docs" / "reference.md").read_text()
SECTION: Final = PAGE.partition("## When an upstream fails")[2].partition("\n## ")[0]
# What the edge makes of a status where it depends on who asks (`respond.status_of`).
DEPENDS: Final[dict[type[UpstreamFault], str]] = {
    UpstreamThrottled: "429; as a mirror 503",
    UpstreamDenied: "403; anonymous 404",
    UpstreamSlow: "waits on",
}


def status_of(kind: type[UpstreamFault]) -> str:
    if kind in DEPENDS:
        return DEPENDS[kind]
    return str(answer(kind.__new__(kind))[0])


def row(policy: Policy) -> str:
    """A policy as a row of the page."""
    cells = [
        policy.title,
        "counts" if policy.counts else "-",
        f"`{policy.stale.value}`",
        "`missing_for`" if policy.remembered else "-",
        "yes" if policy.retried else "-",
        status_of(policy.error),
    ]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
def test_a_failure_is_described_as_it_is(failure: Failure) -> None:
    """Every class of failure has its row, and the row says what the code does."""
    assert row(POLICIES[failure]) in SECTION.splitlines()


def test_every_described_failure_exists() -> None:
    """The page has no row that the code does not have."""
    rows = re.findall(r"^\| (?!failure \||---).*\|$", SECTION, re.MULTILINE)
    assert len(rows) == len(POLICIES) == len(Failure)
