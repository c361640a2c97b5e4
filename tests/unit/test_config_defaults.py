"""The configuration that no file asked for: well-known registries, policies that follow from others, fixed for good."""

from pathlib import Path

import pytest

from proxy.config import load, parse
from proxy.freshness import Verdict

WELL_KNOWN = {
    "docker.io",
    "ghcr.io",
    "quay.io",
    "mcr.microsoft.com",
    "registry.k8s.io",
    "gcr.io",
    "public.ecr.aws",
    "nvcr.io",
    "registry.gitlab.com",
}


# Without a file


def test_without_a_file_the_well_known_registries_are_there() -> None:
    """No config at all is a working one: public upstreams, loopback addresses, half of the disk."""
    config = load(None, {})
    assert set(config.upstreams) == WELL_KNOWN
    hub = config.upstreams["docker.io"]
    assert [endpoint.url for endpoint in hub.endpoints] == ["https://registry-1.docker.io"]
    assert hub.official_prefix == "library"
    assert (str(config.registry.listen), str(config.admin.listen)) == ("127.0.0.1:5090", "127.0.0.1:5091")
    assert config.registry.default_upstream == "docker.io"
    assert config.cache.max_size.of(1000) == 500
    assert config.cache.keep_free.of(1000) == 200
    assert config.implicit_rules


def test_an_empty_file_is_as_good_as_none() -> None:
    """A file of comments only changes nothing."""
    assert parse("# nothing yet\n") == load(None, {})


def test_given_upstreams_are_exactly_these() -> None:
    """Naming one upstream takes the well-known ones away, and the bare form has nowhere to lead."""
    config = parse("upstreams: {corp.example: {}}")
    assert set(config.upstreams) == {"corp.example"}
    assert config.upstreams["corp.example"].endpoints[0].url == "https://corp.example"
    assert config.registry.default_upstream is None


def test_builtin_adds_the_well_known_ones() -> None:
    """`builtin: true` beside the given upstreams adds those whose names are still free."""
    config = parse("upstreams: {builtin: true, corp.example: {aliases: [quay.io]}, docker.io: {max_connections: 3}}")
    assert set(config.upstreams) == (WELL_KNOWN - {"quay.io"}) | {"corp.example"}
    assert config.upstreams["docker.io"].max_connections == 3


def test_a_well_known_name_without_endpoints_is_that_registry_adjusted() -> None:
    """`docker.io: {credentials: hub}` keeps the hub's endpoint, aliases and prefix; with endpoints it stands alone."""
    adjusted = parse("upstreams: {docker.io: {}}").upstreams["docker.io"]
    alone = parse("upstreams: {docker.io: {endpoints: [{url: https://mirror.example}]}}").upstreams["docker.io"]
    assert (adjusted.official_prefix, len(adjusted.aliases)) == ("library", 2)
    assert (alone.official_prefix, alone.aliases) == (None, ())


# What follows from it


def test_tag_policies_follow_what_is_public() -> None:
    """A tag gone upstream is served on for public content by default, never for private; a key given counts for all."""
    by_default, given = parse("").tags, parse("tags: {on_not_found: serve_stale, on_denied: serve_stale}").tags
    rule = parse("rules: [{name: r, upstream: quay.io/*, tags: {fresh_for: 5m, on_denied: deny}}]").rules[0].tags
    assert by_default.policy(None, public=True).on_not_found is Verdict.SERVE_STALE
    assert by_default.policy(None, public=False).on_not_found is Verdict.DENY
    assert by_default.policy(None, public=True).on_denied is Verdict.DENY
    assert given.policy(None, public=False).on_not_found is Verdict.SERVE_STALE
    policy = given.policy(rule, public=False)
    assert (policy.fresh_for_s, policy.on_denied, policy.check_within_s) == (300, Verdict.DENY, 2)


def test_a_config_does_not_change() -> None:
    """What was loaded is frozen: a reload makes a new one."""
    config = load(None, {})
    with pytest.raises(AttributeError, match="frozen"):
        config.cache.directory = Path("/elsewhere")
