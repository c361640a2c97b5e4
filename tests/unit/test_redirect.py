"""Who is sent to the data address."""

import pytest

from proxy.config import ConfigInvalid, parse
from proxy.redirect import Redirect
from proxy.rules import Rules

NETWORKS = ("10.0.0.0/8", "192.168.7.7/32", "2001:db8::/32")
CLIENTS = {
    "10.1.2.3": True,
    "11.0.0.1": False,
    "192.168.7.7": True,
    "192.168.7.8": False,
    "2001:db8::9": True,
    "2001:db9::9": False,
    "::ffff:10.1.2.3": True,
    "::ffff:11.0.0.1": False,
    "fe80::1%eth0": False,
    "": False,
    "localhost": False,
}


@pytest.mark.parametrize(("client", "taken"), CLIENTS.items())
def test_a_client_is_taken_by_its_address(client: str, taken: bool) -> None:
    """An IPv4 client of a socket for both families too; one without an address, as over a Unix socket, never."""
    assert Redirect("https://d", 1, NETWORKS).takes(client) is taken


TEXT = """
upstreams: {a.io: {endpoints: [{url: https://a.io}]}}
blobs: {redirect: {url: https://data.example, over: 2MiB, clients: [10.0.0.0/8]}}
rules:
  - {name: own, upstream: a.io/own/*, blobs: {redirect: {over: 9MiB}}}
  - {name: other, upstream: a.io/other/*, blobs: {redirect: {url: https://d2.example, clients: [11.0.0.1]}}}
  - {name: never, upstream: a.io/never/*, blobs: {redirect: none}}
"""
MIB = 1 << 20
EXPECTED = {
    "team/x": Redirect("https://data.example", 2 * MIB, ("10.0.0.0/8",)),
    "own/x": Redirect("https://data.example", 9 * MIB, ("10.0.0.0/8",)),
    "other/x": Redirect("https://d2.example", 2 * MIB, ("11.0.0.1/32",)),
    "never/x": None,
}


@pytest.mark.parametrize(("name", "redirect"), EXPECTED.items())
def test_a_rule_overrides_each_key(name: str, redirect: Redirect | None) -> None:
    """What it leaves out is the file's; `none` keeps its blobs here."""
    assert Rules(parse(TEXT)).route(f"a.io/{name}").redirect == redirect


def test_a_rule_may_be_the_only_one() -> None:
    """Without one for all, a rule says itself where to and for whom."""
    rule = "{name: r, upstream: a.io/r/*, blobs: {redirect: {url: https://d, clients: [10.0.0.0/8]}}}"
    config = parse(f"upstreams: {{a.io: {{endpoints: [{{url: https://a.io}}]}}}}\nrules: [{rule}]")
    assert Rules(config).route("a.io/r/x").redirect == Redirect("https://d", MIB, ("10.0.0.0/8",))
    assert Rules(config).route("a.io/x").redirect is None


def test_a_rule_that_says_too_little_is_refused() -> None:
    """At the key that is missing."""
    rule = "{name: r, upstream: a.io/r/*, blobs: {redirect: {url: https://d}}}"
    with pytest.raises(ConfigInvalid) as refused:
        parse(f"upstreams: {{a.io: {{endpoints: [{{url: https://a.io}}]}}}}\nrules: [{rule}]")
    assert refused.value.problems == [
        "config:2: rules.0.blobs.redirect.clients: is missing, and blobs.redirect gives none"
    ]
