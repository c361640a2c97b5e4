"""Where a name leads: the four ways to say it, what goes before what, and what is refused."""

from typing import Any

import pytest

from proxy.errors import NameInvalid, NameUnknown
from proxy.freshness import Verdict
from proxy.rules import Place
from tests.support.ruled import rules_of, source_of

WAYS: dict[str, dict[str, Any]] = {
    "ns": {"name": "library/nginx", "namespace": "docker.io"},
    "ns, short name": {"name": "nginx", "namespace": "docker.io"},
    "ns, upper case": {"name": "library/nginx", "namespace": "Docker.IO"},
    "ns, default port": {"name": "library/nginx", "namespace": "docker.io:443"},
    "ns, alias": {"name": "library/nginx", "namespace": "index.docker.io"},
    "path": {"name": "docker.io/library/nginx"},
    "path, short name": {"name": "docker.io/nginx"},
    "path, alias": {"name": "registry-1.docker.io/library/nginx"},
    "path, alias without a dot": {"name": "hub/nginx"},
    "prefix": {"name": "library/nginx", "prefix": "docker.io"},
    "prefix, alias": {"name": "nginx", "prefix": "index.docker.io"},
    "ns and path": {"name": "docker.io/library/nginx", "namespace": "docker.io"},
    "ns and path, alias": {"name": "index.docker.io/nginx", "namespace": "docker.io"},
    "ns and prefix": {"name": "library/nginx", "namespace": "docker.io", "prefix": "docker.io"},
    "ns before prefix": {"name": "library/nginx", "namespace": "docker.io", "prefix": "quay.io"},
    "prefix and path": {"name": "docker.io/nginx", "prefix": "docker.io"},
    "bare": {"name": "library/nginx"},
    "bare, short name": {"name": "nginx"},
    "own path": {"name": "dockerhub/nginx"},
    "own path, whole": {"name": "dockerhub/library/nginx"},
}


@pytest.mark.parametrize("way", WAYS)
def test_all_ways_to_name_content_are_one_place(way: str) -> None:
    """However a client names an image, it is the same place on disk and the same place upstream."""
    rules = rules_of("rules: [{name: r, repository: dockerhub/*, upstream: docker.io/*}]")
    route = rules.route(**WAYS[way])
    assert route.place == Place("docker.io|hub", "library/nginx")
    assert route.rule == "r"
    assert route.client_repository == WAYS[way]["name"]
    assert route.is_mirror == (not way.startswith("own path"))


@pytest.mark.parametrize(
    ("asked", "echoed"),
    [
        ({"namespace": "Docker.io:443"}, "docker.io"),
        ({"namespace": "index.docker.io"}, "index.docker.io"),
        ({"namespace": "LAB:80"}, "lab"),
        ({"prefix": "docker.io"}, None),
        ({}, None),
    ],
)
def test_only_a_namespace_that_was_sent_is_echoed(asked: dict[str, str], echoed: str | None) -> None:
    """OCI-Namespace repeats `ns` in lower case without a default port; the other forms have none."""
    assert rules_of("").route("library/nginx", **asked).namespace == echoed


def test_a_namespace_goes_before_another_upstreams_path() -> None:
    """`ns` and a path that name two upstreams: `ns` wins and the path stays as it is."""
    route = rules_of("").route("quay.io/team/x", namespace="docker.io")
    assert source_of(route) == "docker.io/quay.io/team/x"


def test_an_organisation_called_like_an_alias_is_kept() -> None:
    """Behind `ns` only a first component with a dot is taken for a registry: hub/tool is not library/tool."""
    route = rules_of("").route("hub/tool", namespace="docker.io")
    assert source_of(route) == "docker.io/hub/tool"


BAD_NAMESPACES = [
    "",
    " ",
    "user@docker.io",
    "docker.io\r\nX: y",
    "docker.io/library",
    "https://docker.io",
    "docker.io,quay.io",
    "docker.io?x",
    "doc\u212aer.io",
    "docker.io.",
    "[::1",
    "d" * 300,
]


@pytest.mark.parametrize("value", BAD_NAMESPACES)
@pytest.mark.parametrize("form", ["namespace", "prefix"])
def test_a_namespace_that_is_no_host_is_invalid(form: str, value: str) -> None:
    """Userinfo, line breaks, lists and look-alike letters are refused before anything is looked up."""
    with pytest.raises(NameInvalid):
        rules_of("").route("library/nginx", **{form: value})


@pytest.mark.parametrize(
    "value", ["169.254.169.254", "evil.example", "docker.io:5000", "[fd00:ec2::254]:80", "quay.io:80", "localhost"]
)
def test_an_unknown_namespace_is_a_key_that_fits_nothing(value: str) -> None:
    """`ns` opens only configured upstreams, whatever it looks like; a plain port belongs to plain upstreams only."""
    with pytest.raises(NameUnknown):
        rules_of("").route("library/nginx", namespace=value)


SPECIFIC = """
rules:
  - {name: wide, repository: a/*, upstream: docker.io/*}
  - {name: long, repository: a/b/*, upstream: docker.io/b/*}
  - {name: exact, repository: a/b/c, upstream: docker.io/b/c}
  - {name: other, repository: q/*, upstream: quay.io/x/*}
  - {name: short-exact, repository: a/nginx, upstream: docker.io/nginx}
"""


@pytest.mark.parametrize(
    ("asked", "rule", "source"),
    [
        ({"name": "a/z"}, "wide", "docker.io/library/z"),
        ({"name": "a/b"}, "wide", "docker.io/library/b"),
        ({"name": "a/b/z"}, "long", "docker.io/b/z"),
        ({"name": "a/b/c"}, "exact", "docker.io/b/c"),
        ({"name": "a/b/c/d"}, "long", "docker.io/b/c/d"),
        ({"name": "a/bb/z"}, "wide", "docker.io/bb/z"),
        ({"name": "a/nginx"}, "short-exact", "docker.io/library/nginx"),
        ({"name": "docker.io/b/c"}, "exact", "docker.io/b/c"),
        ({"name": "docker.io/b/d"}, "long", "docker.io/b/d"),
        ({"name": "nginx"}, "short-exact", "docker.io/library/nginx"),
        ({"name": "x/y", "namespace": "quay.io"}, "other", "quay.io/x/y"),
        ({"name": "y/z", "namespace": "quay.io"}, "quay.io", "quay.io/y/z"),
        ({"name": "q/z"}, "other", "quay.io/x/z"),
    ],
)
def test_the_most_specific_rule_wins(asked: dict[str, str], rule: str, source: str) -> None:
    """Exact before wildcard, longer before shorter, explicit before implicit, on the side the client named."""
    route = rules_of(SPECIFIC).route(**asked)
    assert (route.rule, source_of(route)) == (rule, source)


@pytest.mark.parametrize("name", ["unknown.example/x", "docker.io", "lab.example/x", "127.0.0.1/x"])
def test_a_name_that_looks_like_a_registry_is_not_guessed(name: str) -> None:
    """A first component with a dot that no rule knows is unknown, never a repository of the default upstream."""
    with pytest.raises(NameUnknown):
        rules_of("").route(name)


def test_without_a_default_upstream_bare_names_are_unknown() -> None:
    """Docker Engine's bare paths lead somewhere only where the config says so."""
    with pytest.raises(NameUnknown):
        rules_of("registry: {default_upstream: none}").route("library/nginx")
    route = rules_of("registry: {default_upstream: index.docker.io}").route("nginx")
    assert source_of(route) == "docker.io/library/nginx"


def test_without_implicit_rules_only_explicit_ones_lead_anywhere() -> None:
    """`implicit_rules: false` closes every upstream but for what a rule names, in every form."""
    rules = rules_of("implicit_rules: false\nrules: [{name: r, repository: dh/*, upstream: docker.io/library/*}]")
    assert rules.route("nginx", namespace="docker.io").rule == "r"
    for asked in ({"namespace": "docker.io"}, {"prefix": "docker.io"}, {}):
        with pytest.raises(NameUnknown):
            rules.route("corp/tool", **asked)
    with pytest.raises(NameUnknown):
        rules.route("x/y", namespace="quay.io")
    assert [view.name for view in rules.listing()] == ["r"]


def test_credentials_decide_what_is_public() -> None:
    """A rule's credentials go before the upstream's; content is public without any, or where the rule says so."""
    rules = rules_of(
        "rules:\n"
        "- {name: own, repository: own/*, upstream: docker.io/own/*, credentials: team}\n"
        "- {name: quota, repository: quota/*, upstream: docker.io/quota/*, public: true}\n"
    )
    own, quota = rules.route("own/x"), rules.route("quota/x")
    hub, free = rules.route("x/y", namespace="docker.io"), rules.route("x/y", namespace="quay.io")
    assert [(r.source.credentials, r.public) for r in (own, quota, hub, free)] == [
        ("team", False),
        ("hub", True),
        ("hub", False),
        (None, True),
    ]
    assert str(own.place) == "docker.io|team/own/x"
    assert str(free.place) == "quay.io/x/y"
    serving = [r.tags.on_not_found is Verdict.SERVE_STALE for r in (own, quota, hub, free)]
    assert serving == [False, True, False, True]


def test_a_rule_carries_its_own_settings() -> None:
    """Tags, hydration and the one endpoint are the rule's where it gives them, else the file's."""
    rules = rules_of(
        "tags: {fresh_for: 10s, missing_for: 3s}\n"
        "rules: [{name: r, upstream: docker.io/x/*, endpoint: 'https://MIRROR.example/', tags: {fresh_for: 5m},"
        " hydrate: {image: none}}]"
    )
    mine, other = rules.route("x/y", namespace="docker.io"), rules.route("z/y", namespace="docker.io")
    assert (mine.tags.fresh_for_s, mine.tags.missing_for_s, mine.hydrate) == (300, 3, False)
    assert mine.source.endpoint == "https://mirror.example"
    assert (other.tags.fresh_for_s, other.hydrate, other.source.endpoint) == (10, True, None)


def test_a_rewritten_name_is_checked_again() -> None:
    """A name that a rule makes longer than the spec allows is refused, not sent."""
    rules = rules_of(f"rules: [{{name: r, repository: a/*, upstream: quay.io/{'p' * 100}/*}}]")
    assert rules.route("a/" + "x" * 100).source.repository.endswith("x")
    with pytest.raises(NameInvalid):
        rules.route("a/" + "x" * 200)


@pytest.mark.parametrize(
    ("text", "is_there"),
    [
        ("rules: [{name: r, repository: a/*, upstream: docker.io/x/*}]", True),
        ("rules: [{name: r, upstream: docker.io/x/y}]", True),
        ("rules: [{name: other, repository: a/*, upstream: docker.io/x/*}]", False),
        ("rules: [{name: r, repository: a/*, upstream: docker.io/z/*}]", False),
        ("rules: [{name: r, repository: a/*, upstream: quay.io/x/*}]", False),
        ("rules: [{name: r, repository: a/*, upstream: docker.io/x/*, credentials: team}]", False),
        ("rules: [{name: r, upstream: docker.io/x/*, deny: true}]", False),
        (
            "rules: [{name: r, upstream: docker.io/*}, {name: d, upstream: docker.io/x/y, deny: true}]",
            False,
        ),
    ],
)
def test_a_job_outlives_a_config_only_where_its_rule_still_leads(text: str, is_there: bool) -> None:
    """A place is routed again by its rule's name only while that rule covers it, unchanged and not denied."""
    place = Place("docker.io|hub", "x/y")
    route = rules_of(text).route_in("r", place)
    assert (route is not None) == is_there
    assert route is None or (route.place == place and route.rule == "r")


def test_the_listing_is_in_the_order_of_matching() -> None:
    """Exact before wildcard, longer before shorter, explicit before implicit, else the file's order."""
    names = [view.name for view in rules_of(SPECIFIC).listing()]
    assert names == ["short-exact", "exact", "long", "other", "wide", "quay.io", "lab"]
    assert [view.name for view in rules_of(SPECIFIC).listing() if view.implicit] == ["quay.io", "lab"]


def test_overlaps_name_the_rule_that_goes_first() -> None:
    """Nested sides, equal sides and paths that begin with an upstream's name are each told, implicit rules never."""
    rules = rules_of(
        "rules:\n"
        "- {name: wide, repository: a/*, upstream: docker.io/*}\n"
        "- {name: long, repository: a/b/*, upstream: docker.io/b/*}\n"
        "- {name: hidden, repository: quay.io/z/*, upstream: lab/z/*}\n"
        "- {name: denies, upstream: docker.io/b/*, deny: true}\n"
        "- {name: alone, repository: z/*, upstream: quay.io/only/*}"
    )
    assert [(overlap.rule, overlap.other) for overlap in rules.overlaps()] == [
        ("denies", "long"),
        ("long", "wide"),
        ("long", "wide"),
        ("quay.io", "hidden"),
        ("denies", "wide"),
    ]
