"""Where a name leads: the four ways to say it, what goes before what, and what is refused."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import Config, RuleConfig, parse
from proxy.errors import CisternError, Denied, NameInvalid, NameUnknown
from proxy.freshness import Verdict
from proxy.rules import Place, Route, Rules

HUB = """
upstreams:
  docker.io:
    endpoints: [{url: https://registry-1.docker.io}, {url: https://mirror.example}]
    aliases: [index.docker.io, registry-1.docker.io, hub]
    official_prefix: library
    credentials: hub
  quay.io: {}
  lab: {endpoints: [{url: 'http://lab.example'}], plain_http: true}
credentials:
  hub: {username: u, password: {env: A}}
  team: {username: u, password: {env: B}}
"""


def rules_of(text: str, base: str = HUB) -> Rules:
    return Rules(parse(base + text))


def source_of(route: Route) -> str:
    return f"{route.source.upstream}/{route.source.repository}"


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


# Against a naive reference

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
