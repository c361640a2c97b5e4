"""What `cistern check` prints."""

from proxy.check import egress, render, render_egress
from proxy.config import load, parse


def test_rules_are_a_table_in_matching_order() -> None:
    """One line a rule, the one that matches first on top, with what is special about it."""
    config = parse(
        """
upstreams: {docker.io: {credentials: hub}}
credentials: {hub: {username: u, password: {env: X}}}
rules:
  - {name: hub, repository: dockerhub/*, upstream: docker.io/*, public: true}
  - {name: official, upstream: docker.io/library/*, endpoint: https://registry-1.docker.io}
  - {name: no-miners, upstream: docker.io/evil/*, deny: true}
"""
    )
    assert render(config).splitlines() == [
        "RULE       REPOSITORY   UPSTREAM             CREDENTIALS  NOTES",
        "official   -            docker.io/library/*  hub          private, only https://registry-1.docker.io",
        "no-miners  -            docker.io/evil/*     -            denied",
        "hub        dockerhub/*  docker.io/*          hub",
        "",
        "Overlaps, the rule that is taken first:",
        "  official before hub: upstream docker.io/library/* is more specific than docker.io/*",
        "  no-miners before hub: upstream docker.io/evil/* is more specific than docker.io/*",
    ]


def test_a_rule_whose_blobs_come_from_elsewhere_says_so() -> None:
    """Each with its own data address."""
    config = parse(
        """
upstreams: {a.io: {}}
blobs: {redirect: {url: https://data.example, clients: [10.0.0.0/8]}}
rules: [{name: here, upstream: a.io/small/*, blobs: {redirect: none}}]
"""
    )
    assert [line.split("  ")[-1] for line in render(config).splitlines()[1:3]] == [
        "-",
        "implicit, blobs from https://data.example",
    ]


def test_two_rules_for_one_upstream_side_are_told() -> None:
    """`check` says which of two rules stands for an upstream side."""
    config = parse(
        """
rules:
  - {name: a, repository: a/*, upstream: quay.io/*}
  - {name: b, repository: b/*, upstream: quay.io/*}
"""
    )
    assert render(config).endswith("\n  a before b: both have upstream quay.io/*: the first stands for it")


def test_no_rule_at_all_is_said() -> None:
    """A config that leads nowhere shows that, not an empty table."""
    assert render(parse("implicit_rules: false")).endswith("(no rule: every request is answered 404)")


def test_the_built_in_config_lists_its_implicit_rules() -> None:
    """Each well-known registry has a line of its own, and nothing overlaps."""
    lines = render(load(None, {})).splitlines()
    assert len(lines) == 10
    assert all(line.endswith("implicit") for line in lines[1:])


def test_egress_names_every_host_once() -> None:
    """Endpoints, trusted hosts and networks, and the proxy, each as host:port with the port of its scheme."""
    config = parse(
        """
upstreams:
  a.example:
    endpoints: [{url: https://a.example/base}, {url: 'http://b.example'}, {url: 'https://[::1]:5000'}]
    plain_http: true
    trusted_realms: [login.example, login.example:8443]
    trusted_redirects: [10.0.0.0/8, '[::2]']
    proxy: http://egress.example:3128
  c.example: {endpoints: [{url: https://a.example}], proxy: none}
"""
    )
    assert egress(config) == [
        "a.example:443",
        "b.example:80",
        "[::1]:5000",
        "login.example:443",
        "login.example:8443",
        "10.0.0.0/8",
        "[::2]:443",
        "egress.example:3128",
    ]


def test_egress_knows_where_the_public_registries_lead() -> None:
    """Token realms and content networks of well-known endpoints are listed; a private mirror needs none of them."""
    assert {"auth.docker.io:443", "production.cloudflare.docker.com:443"} <= set(egress(load(None, {})))
    mirror = parse("upstreams: {docker.io: {endpoints: [{url: https://mirror.example}]}}")
    assert egress(mirror) == ["mirror.example:443"]


def test_the_environments_proxy_is_shown_without_its_password() -> None:
    """With `proxy: env` the proxy of the endpoints' scheme is a host to allow; its userinfo is not repeated."""
    environ = {"HTTPS_PROXY": "http://me:hunter2@egress.example:3128/", "http_proxy": "http://plain.example"}
    config = parse("upstreams: {quay.io: {endpoints: [{url: https://r.example}]}}")
    assert egress(config, environ) == ["r.example:443", "egress.example:3128"]
    assert render_egress(config, environ).splitlines() == [
        "r.example:443        # quay.io: endpoint",
        "egress.example:3128  # egress proxy",
    ]
    assert "hunter2" not in render_egress(config, environ)
