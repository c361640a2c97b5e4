"""The config file: what it may say, and how it is refused."""

import json
import math
from pathlib import Path, PurePath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import Address, Config, ConfigInvalid, SecretUnavailable, Share, load, parse, units, warnings
from proxy.config.builtin import cache_directory
from proxy.config.mounts import network_file_system
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
CANARY = "hunter2-canary"


def problems_of(text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as refused:
        parse(text, "c.yaml", environ)
    return refused.value.problems


def only_problem_of(text: str, **environ: str) -> str:
    (problem,) = problems_of(text, **environ)
    return problem


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


# Values


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0B", 0),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("1.5 MiB", 1_572_864),
        ("20GiB", 20 * 1024**3),
        ("3GB", 3 * 10**9),
        ("2TB", 2 * 10**12),
        ("2TiB", 2 * 1024**4),
        ("7MB", 7_000_000),
    ],
)
def test_a_size_has_a_unit(written: str, expected: int) -> None:
    """Sizes are exact bytes, in powers of 1000 or 1024 as their unit says."""
    assert units.size(written) == expected


@pytest.mark.parametrize(
    "written", [20, "20", "20gib", "GiB", "-1KB", "1e3KB", "1,5KB", "20GiBs", "٣KB", "", None, True]
)
def test_a_size_without_a_proper_unit_is_refused(written: Any) -> None:
    """A bare number or an unknown unit is never guessed at."""
    with pytest.raises(ValueError, match="must be a size"):
        units.size(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1.5h", 5400), ("2d", 172_800), ("forever", math.inf), ("0s", 0)],
)
def test_a_time_has_a_unit(written: str, expected: float) -> None:
    """Times are seconds, and forever is infinity."""
    assert units.seconds_or_forever(written) == expected


@pytest.mark.parametrize("written", [30, "30", "30S", "1h30m", "-1s", "1:30", "1w", "infinity", "", None])
def test_a_time_without_a_proper_unit_is_refused(written: Any) -> None:
    """A bare number or an unknown unit is never guessed at."""
    with pytest.raises(ValueError, match="must be a time"):
        units.seconds_or_forever(written)


@given(st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_value_or_refused(written: str) -> None:
    """No text makes a reader of values fail in another way than by refusing it."""
    readers = [units.size, units.share, units.seconds_or_forever, units.host, units.http_url, Address.parse, units.flag]
    for reader in readers:
        try:
            reader(written)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("50%", Share(percent=50)),
        ("12.5%", Share(percent=12.5)),
        ("1KiB", Share(bytes=1024)),
        ("100%", Share(percent=100)),
    ],
)
def test_a_share_is_a_size_or_a_percentage(written: str, expected: Share) -> None:
    """Where the contract allows it, a size may be a part of the file system."""
    assert units.share(written) == expected


@pytest.mark.parametrize("written", ["101%", "-1%", "50", "%", "half"])
def test_a_share_of_more_than_all_is_refused(written: str) -> None:
    """A percentage lies between 0 and 100."""
    with pytest.raises(ValueError, match="must be"):
        units.share(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Docker.IO", "docker.io"),
        ("docker.io:443", "docker.io"),
        ("localhost:5000", "localhost:5000"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("[::1]:5000", "[::1]:5000"),
        ("[0:0::1]", "[::1]"),
        ("10.0.0.1:80", "10.0.0.1:80"),
    ],
)
def test_a_host_is_normalised_once(written: str, expected: str) -> None:
    """Case, IDNA, IPv6 spelling and the default port do not make another name."""
    assert units.host(written) == expected


CONFUSING = [
    "",
    "a b",
    "user@host",
    "https://host",
    "host/path",
    "host?x",
    "host#x",
    "a..b",
    "-a.b",
    "host:0",
    "host:65536",
    "host:port",
    "127.1",
    "0177.0.0.1",
    "2130706433",
    "0x7f.0.0.1",
    "0x7f000001",
    "1.2.3.256",
    "[::1",
    "[::g]",
    "a\\b",
    "a\nb",
    "a_b.example",
    "a." + "b" * 255,
]


@pytest.mark.parametrize("written", CONFUSING)
def test_a_host_that_parsers_could_read_in_two_ways_is_refused(written: str) -> None:
    """Only a plain host name, dotted quad or bracketed IPv6 address is a host."""
    with pytest.raises(ValueError, match=r".+"):
        units.host(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("HTTPS://Reg.Example:443/", "https://reg.example"),
        ("http://reg.example:80", "http://reg.example"),
        ("http://reg.example:5000", "http://reg.example:5000"),
        ("https://art.example/artifactory/api/docker/remote/", "https://art.example/artifactory/api/docker/remote"),
        ("https://[::1]:5000", "https://[::1]:5000"),
    ],
)
def test_a_url_is_normalised_once(written: str, expected: str) -> None:
    """Scheme, host and default port have one spelling; a base path stays."""
    assert units.http_url(written) == expected


@pytest.mark.parametrize(
    "written",
    [
        "reg.example",
        "ftp://reg.example",
        "https://",
        "https:///x",
        f"https://me:{CANARY}@reg.example",
        "https://reg.example?x=1",
        "https://reg.example/#x",
        "https://reg.example/a/../b",
        "https://reg.example//b",
        "https://reg.example/%2e",
        "https://reg.example/v2/",
        "http://127.0.0.1:6666\\@1.2.3.4/",
        "https://reg.example:x",
        "https://2130706433/",
        "https://reg.example\r\nHost: x",
    ],
)
def test_a_url_with_more_than_a_base_is_refused(written: str) -> None:
    """Userinfo, query, fragment, dot segments and what parsers disagree on have no place in an endpoint."""
    with pytest.raises(ValueError, match=r".+") as refused:
        units.http_url(written)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("written", "shown", "is_local"),
    [
        ("127.0.0.1:5090", "127.0.0.1:5090", True),
        ("0.0.0.0:80", "0.0.0.0:80", False),
        ("localhost:0", "localhost:0", True),
        ("[::1]:5090", "[::1]:5090", True),
        ("[::]:5090", "[::]:5090", False),
        ("cache.example:5090", "cache.example:5090", False),
        ("unix:/run/cistern.sock", "unix:/run/cistern.sock", True),
    ],
)
def test_an_address_to_listen_on(written: str, shown: str, is_local: bool) -> None:
    """HOST:PORT, bracketed IPv6 or a Unix socket; what only this machine reaches is known by the literal."""
    address = Address.parse(written)
    assert (str(address), address.is_local) == (shown, is_local)


@pytest.mark.parametrize(
    "written", ["5090", ":5090", "host", "::1:5090", "host:99999", "unix:sock", "host:-1", "[x]:1"]
)
def test_an_address_that_is_none_is_refused(written: str) -> None:
    """A missing host or port, or a relative socket path, is refused."""
    with pytest.raises(ValueError, match=r".+"):
        Address.parse(written)


# Refusals


def test_every_problem_is_told_at_once() -> None:
    """Unknown key, wrong unit, duplicate key, missing upstream and bad variable come at once, each with its place."""
    text = """\
cache:
  max_sise: 3GiB
  keep_free: 12
tags: {fresh_for: 60}
rules:
  - {name: a, repository: x/*, upstream: nope.example/*}
tags: {}
limits: {max_connections: many}
"""
    assert problems_of(text, CISTERN_CACHE__MAX_SIZE="12parsecs") == [
        "CISTERN_CACHE__MAX_SIZE: cache.max_size: must be a size such as 50GiB: a number and one of"
        " B KB MB GB TB KiB MiB GiB TiB, or a percentage such as 50%",
        "c.yaml:2: cache.max_sise: unknown key, did you mean max_size?",
        "c.yaml:3: cache.keep_free: must be a size such as 50GiB: a number and one of"
        " B KB MB GB TB KiB MiB GiB TiB, or a percentage such as 50%",
        "c.yaml:4: tags.fresh_for: must be a time such as 30s: a number and one of ms s m h d, or forever",
        "c.yaml:6: rules.0.upstream: there is no upstream nope.example",
        "c.yaml:7: tags: duplicate key: it stands in line 4 already",
        "c.yaml:8: limits.max_connections: must be a whole number, 0 or more",
    ]


REFUSED = {
    "unknown top key": ("cahce: {}", "c.yaml:1: cahce: unknown key, did you mean cache?"),
    "later key": ("webhooks: []", "c.yaml:1: webhooks: unknown key"),
    "later credentials": (
        "credentials: {hub: {docker_config: /x, username: u, password: {env: X}}}",
        "c.yaml:1: credentials.hub.docker_config: unknown key",
    ),
    "later hydrate": (
        "hydrate: {image: all_platforms}",
        "c.yaml:1: hydrate.image: must be 'none' or 'pulled_platforms'",
    ),
    "yes is text": ("implicit_rules: yes", "c.yaml:1: implicit_rules: must be true or false"),
    "no is text": ("implicit_rules: no", "c.yaml:1: implicit_rules: must be true or false"),
    "012 is text": (
        "limits: {max_connections: 012}",
        "c.yaml:1: limits.max_connections: must be a whole number, 0 or more",
    ),
    "1:30 is text": (
        "tags: {fresh_for: 1:30}",
        "c.yaml:1: tags.fresh_for: must be a time such as 30s: a number and one of ms s m h d, or forever",
    ),
    "section is text": ("cache: big", "c.yaml:1: cache: must be a map of keys"),
    "list is a map": ("rules: {a: b}", "c.yaml:1: rules: must be a list"),
    "list is text": ("block: x", "c.yaml:1: block: must be a list"),
    "upstreams is a list": ("upstreams: []", "c.yaml:1: upstreams: must be a map of upstreams by name"),
    "no endpoint": ("upstreams: {a.io: {endpoints: []}}", "c.yaml:1: upstreams.a.io.endpoints: must not be empty"),
    "upstream name": (
        "upstreams: {https://a.io: {}}",
        "c.yaml:1: upstreams.https://a.io: must be HOST or HOST:PORT, without scheme, path or user",
    ),
    "upstream twice": (
        "upstreams:\n  a.io: {}\n  A.io:443: {endpoints: [{url: https://b.io}]}",
        "c.yaml:3: upstreams.A.io:443: names the same upstream as a.io",
    ),
    "alias of two": (
        "upstreams:\n  a.io: {aliases: [x.io]}\n  b.io: {aliases: [X.io]}",
        "c.yaml:3: upstreams.b.io.aliases.0: x.io stands for upstream a.io already",
    ),
    "alias is a name": (
        "upstreams:\n  a.io: {aliases: [b.io]}\n  b.io: {}",
        "c.yaml:2: upstreams.a.io.aliases.0: b.io stands for upstream b.io already",
    ),
    "plain http": (
        "upstreams: {a.io: {endpoints: [{url: 'http://a.io'}]}}",
        "c.yaml:1: upstreams.a.io.endpoints.0.url: is not encrypted: use https://, or say plain_http: true",
    ),
    "credentials over plain http": (
        "upstreams: {a.io: {endpoints: [{url: 'http://a.io'}], plain_http: true, credentials: c}}\n"
        "credentials: {c: {username: u, password: {env: X}}}",
        "c.yaml:1: upstreams.a.io.endpoints.0.url: would send credentials unencrypted: use https://, or say"
        " allow_insecure_credentials: true",
    ),
    "rule's credentials over plain http": (
        "upstreams: {a.io: {endpoints: [{url: 'http://a.io'}], plain_http: true}}\n"
        "credentials: {c: {username: u, password: {env: X}}}\n"
        "rules: [{name: r, upstream: a.io/*, credentials: c}]",
        "c.yaml:3: rules.0.credentials: would go unencrypted to http://a.io: the upstream lacks"
        " allow_insecure_credentials",
    ),
    "unknown credentials": (
        "upstreams: {a.io: {credentials: nope}}",
        "c.yaml:1: upstreams.a.io.credentials: there are no credentials 'nope'",
    ),
    "literal password": (
        f"credentials: {{c: {{username: u, password: {CANARY}}}}}",
        "c.yaml:1: credentials.c.password: a literal is refused: write {env: NAME} or {file: PATH}",
    ),
    "two places": (
        "credentials: {c: {username: u, password: {env: X, file: /x}}}",
        "c.yaml:1: credentials.c.password: must be one of {env: NAME} and {file: PATH}",
    ),
    "no username": ("credentials: {c: {password: {env: X}}}", "c.yaml:1: credentials.c.username: is missing"),
    "no such default": (
        "registry: {default_upstream: nope.io}",
        "c.yaml:1: registry.default_upstream: there is no upstream nope.io",
    ),
    "same address": (
        "registry: {listen: 127.0.0.1:5000}\nadmin: {listen: 127.0.0.1:5000}",
        "c.yaml:2: admin.listen: is the address of registry.listen",
    ),
    "bad digest": (
        "block: ['sha256:abc']",
        "c.yaml:1: block.0: a sha256 digest has 64 lower-case hexadecimal digits",
    ),
    "rule name twice": (
        "rules:\n- {name: a, repository: a/*, upstream: docker.io/*}\n- {name: a, upstream: quay.io/*}",
        "c.yaml:3: rules.1.name: rule 1 in the list has this name already",
    ),
    "rule repository twice": (
        "rules:\n- {name: a, repository: a/*, upstream: docker.io/*}\n- {name: b, repository: a/*, upstream: gcr.io/*}",
        "c.yaml:3: rules.1.repository: rule a has the same repository",
    ),
    "implicit rule's name": (
        "rules: [{name: quay.io, repository: a/*, upstream: docker.io/*}]",
        "c.yaml:1: rules.0.name: is the name of upstream quay.io, whose own rule is called so",
    ),
    "star on one side": (
        "rules: [{name: a, repository: a/*, upstream: docker.io/library/nginx}]",
        "c.yaml:1: rules.0.upstream: a closing * must stand in both repository and upstream, or in neither",
    ),
    "star in the middle": (
        "rules: [{name: a, repository: a/*/b, upstream: docker.io/x/b}]",
        "c.yaml:1: rules.0.repository: may have one *, at its end, after a slash: it stands for whole path components",
    ),
    "star within a component": (
        "rules: [{name: a, repository: team-*, upstream: docker.io/*}]",
        "c.yaml:1: rules.0.repository: may have one *, at its end, after a slash: it stands for whole path components",
    ),
    "upper-case repository": (
        "rules: [{name: a, repository: Team/*, upstream: docker.io/*}]",
        "c.yaml:1: rules.0.repository: must be a repository name (lower case), or one with /* behind it",
    ),
    "rule without an upstream": ("rules: [{name: a, repository: a/*}]", "c.yaml:1: rules.0.upstream: is missing"),
    "upstream without a repository": (
        "rules: [{name: a, repository: a/*, upstream: docker.io}]",
        "c.yaml:1: rules.0.upstream: must be UPSTREAM/REPOSITORY, such as docker.io/library/*",
    ),
    "foreign endpoint": (
        "rules: [{name: a, repository: a/*, upstream: docker.io/*, endpoint: https://evil.example}]",
        "c.yaml:1: rules.0.endpoint: is not among the upstream's endpoints: https://registry-1.docker.io",
    ),
    "endpoint with userinfo": (
        f"upstreams: {{a.io: {{endpoints: [{{url: 'https://u:{CANARY}@a.io'}}]}}}}",
        "c.yaml:1: upstreams.a.io.endpoints.0.url: must not hold a user or password: use credentials",
    ),
    "realm with a scheme": (
        "upstreams: {a.io: {trusted_realms: ['https://b.io']}}",
        "c.yaml:1: upstreams.a.io.trusted_realms.0: must be HOST or HOST:PORT, without scheme, path or user",
    ),
    "network with host bits": (
        "upstreams: {a.io: {trusted_redirects: [10.0.0.1/8]}}",
        "c.yaml:1: upstreams.a.io.trusted_redirects.0: must be HOST, HOST:PORT or a network such as 10.0.0.0/8",
    ),
    "endless timeout": (
        "upstreams: {a.io: {timeouts: {connect: forever}}}",
        "c.yaml:1: upstreams.a.io.timeouts.connect: must end: forever is not possible here",
    ),
    "no time": (
        "upstreams: {a.io: {timeouts: {connect: 0s}}}",
        "c.yaml:1: upstreams.a.io.timeouts.connect: must be more than no time",
    ),
    "no cache": ("cache: {max_size: 0%}", "c.yaml:1: cache.max_size: must be more than nothing"),
    "verdict": ("tags: {on_denied: maybe}", "c.yaml:1: tags.on_denied: must be 'deny' or 'serve_stale'"),
    "redirect to a path with a dot": (
        "blobs: {redirect: {url: https://d/../x, clients: [10.0.0.0/8]}}",
        "c.yaml:1: blobs.redirect.url: has a path with empty, dotted or escaped parts",
    ),
    "redirect for a host": (
        "blobs: {redirect: {url: https://d, clients: [node.example]}}",
        "c.yaml:1: blobs.redirect.clients.0: must be a network such as 10.0.0.0/8, or an address",
    ),
    "redirect for nobody": (
        "blobs: {redirect: {url: https://d, clients: []}}",
        "c.yaml:1: blobs.redirect.clients: must not be empty",
    ),
    "a key in the file": (
        f"blobs: {{key: {CANARY}}}",
        "c.yaml:1: blobs.key: a literal is refused: write {env: NAME} or {file: PATH}",
    ),
    "one address for two": (
        "registry: {listen: 'a:1'}\nblobs: {listen: 'a:1'}",
        "c.yaml:2: blobs.listen: is the address of registry.listen",
    ),
    "a rule's blobs without a word": (
        "rules: [{name: a, upstream: docker.io/*, blobs: {}}]",
        "c.yaml:1: rules.0.blobs.redirect: is missing",
    ),
    "workers beyond any machine": (
        "registry: {workers: 257}",
        "c.yaml:1: registry.workers: must be at most 256",
    ),
    "merge key": ("a: &a {x: 1}\n<<: *a", "c.yaml:1: a: unknown key"),
    "not a map": ("- a", "c.yaml:1: must be a map of keys"),
    "syntax": ("cache: {\n", "c.yaml:2: did not find expected node content"),
    "foreign tag": ("cache: {directory: !!python/name:os.system x}", "c.yaml:1: cache.directory: a tag"),
    "control character": ('registry: {name: "a\\nb"}', "c.yaml:1: registry.name: must be text without control"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_config_is_refused_with_its_line(case: str) -> None:
    """What is wrong is refused at load, with file, line, key and a reason, and no secret comes back."""
    text, expected = REFUSED[case]
    problems = problems_of(text)
    assert any(problem.startswith(expected) for problem in problems), problems
    assert CANARY not in str(problems)


def test_a_redirect_says_for_whom() -> None:
    """Whose way to the data address is open is nobody's to guess."""
    text = "blobs: {redirect: {url: https://data.example, over: 1MiB}}"
    assert only_problem_of(text) == "c.yaml:1: blobs.redirect.clients: is missing"
    assert parse("blobs: {redirect: none}").blobs.redirect is None


def test_an_alias_that_contains_itself_is_refused() -> None:
    """A YAML alias loop ends with a refusal, not with the stack."""
    assert "nested too deep" in problems_of("cache: &a {x: *a}")[0]


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file and one that is not text are refused with their name."""
    with pytest.raises(ConfigInvalid, match=r"nope\.yaml:1: cannot be read: No such file"):
        load(tmp_path / "nope.yaml", {})
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(ConfigInvalid, match=r"binary\.yaml:1: is not UTF-8 text"):
        load(binary, {})


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_config_or_refused(text: str) -> None:
    """Whatever a file holds, the answer is a config or a list of problems that each name the file."""
    try:
        problems = [] if isinstance(parse(text, "c.yaml"), Config) else ["no config"]
    except ConfigInvalid as refused:
        problems = refused.problems or ["no reason"]
    assert all(problem.startswith("c.yaml:") for problem in problems)


# The environment and flags


def test_variables_go_over_the_file_and_flags_over_both(tmp_path: Path) -> None:
    """A key has one value: the flag's, else the variable's, else the file's."""
    file = tmp_path / "c.yaml"
    file.write_text("cache: {max_size: 1GiB, keep_free: 10%}\nadmin: {listen: 127.0.0.1:1}")
    environ = {"CISTERN_CACHE__MAX_SIZE": "20GiB", "CISTERN_REGISTRY__LISTEN": "[::1]:80", "PATH": "/bin"}
    config = load(file, environ, {"--listen": ("registry.listen", "127.0.0.1:0")})
    assert (config.cache.max_size.bytes, config.cache.keep_free.percent) == (20 * 1024**3, 10)
    assert (str(config.registry.listen), str(config.admin.listen)) == ("127.0.0.1:0", "127.0.0.1:1")
    assert str(load(file, environ).registry.listen) == "[::1]:80"


def test_maps_are_set_as_json() -> None:
    """A variable sets a map or list whole; an inner variable goes over an outer one."""
    upstreams = {"corp.example": {"endpoints": [{"url": "https://eu.corp.example"}], "max_connections": 8}}
    config = parse(
        "upstreams: {docker.io: {}}",
        environ={
            "CISTERN_UPSTREAMS": json.dumps(upstreams),
            "CISTERN_UPSTREAMS__CORP.EXAMPLE__MAX_CONNECTIONS": "9",
            "CISTERN_RULES": '[{"name": "r", "repository": "c/*", "upstream": "corp.example/*"}]',
            "CISTERN_IMPLICIT_RULES": "false",
        },
    )
    assert list(config.upstreams) == ["corp.example"]
    assert config.upstreams["corp.example"].max_connections == 9
    assert (config.rules[0].name, config.implicit_rules) == ("r", False)


BAD_VARIABLES = {
    "typing error": ({"CISTERN_CACHE__MAX_SISE": "1GiB"}, "CISTERN_CACHE__MAX_SISE: cache.max_sise: unknown key"),
    "one underscore": (
        {"CISTERN_CACHE_MAX_SIZE": "1GiB"},
        "CISTERN_CACHE_MAX_SIZE: no such key, did you mean CISTERN_CACHE__MAX_SIZE?",
    ),
    "no key": ({"CISTERN_FROBNICATE": "1"}, "CISTERN_FROBNICATE: no such key"),
    "bad JSON": ({"CISTERN_UPSTREAMS": f"{{{CANARY}"}, "CISTERN_UPSTREAMS: upstreams: is not valid JSON"),
    "JSON key twice": ({"CISTERN_CACHE": '{"a": 1, "a": 2}'}, "CISTERN_CACHE: cache: is not valid JSON: a key stands"),
    "into a list": (
        {"CISTERN_RULES__0__NAME": "x"},
        "CISTERN_RULES__0__NAME: rules.0.name: rules is set whole, as JSON",
    ),
    "bad value": ({"CISTERN_TAGS__FRESH_FOR": "soon"}, "CISTERN_TAGS__FRESH_FOR: tags.fresh_for: must be a time"),
    "empty": ({"CISTERN_REGISTRY__NAME": ""}, "CISTERN_REGISTRY__NAME: registry.name: must be text"),
    "literal secret": (
        {"CISTERN_CREDENTIALS__C__PASSWORD": CANARY},
        "CISTERN_CREDENTIALS__C__PASSWORD: credentials.c.password: a literal is refused",
    ),
}


@pytest.mark.parametrize("case", BAD_VARIABLES)
def test_a_bad_variable_is_refused_by_its_name(case: str) -> None:
    """A variable that sets no key, or sets it wrongly, is named, and its value is not repeated."""
    environ, expected = BAD_VARIABLES[case]
    problems = problems_of("rules: [{name: a, upstream: quay.io/*}]", **environ)
    assert any(problem.startswith(expected) for problem in problems), problems
    assert CANARY not in str(problems)


def test_variables_that_are_no_keys_are_left_alone() -> None:
    """The contract's own three, the ones a secret is read from, and Kubernetes' links for a service called cistern."""
    environ = {
        "CISTERN_CONFIG": "x",
        "CISTERN_ADMIN": "unix:/x",
        "CISTERN_ADMIN_TOKEN": CANARY,
        "CISTERN_HUB_TOKEN": CANARY,
        "CISTERN_SERVICE_HOST": "10.0.0.1",
        "CISTERN_SERVICE_PORT_HTTP": "80",
        "CISTERN_PORT": "tcp://10.0.0.1:80",
        "CISTERN_PORT_80_TCP_ADDR": "10.0.0.1",
        "CISTERN_ADMIN_SERVICE_PORT": "80",
    }
    config = parse("credentials: {c: {username: u, password: {env: CISTERN_HUB_TOKEN}}}", environ=environ)
    assert config.credentials["c"].secret(environ) == CANARY


def test_a_bad_flag_is_refused_by_its_name() -> None:
    """A flag's problem names the flag, not a file."""
    with pytest.raises(ConfigInvalid, match=r"^--listen: registry\.listen: must be HOST:PORT"):
        load(None, {}, {"--listen": ("registry.listen", "nowhere")})


@pytest.mark.parametrize(
    ("environ", "is_root", "expected"),
    [
        ({"XDG_CACHE_HOME": "/xdg", "HOME": "/home/me"}, False, "/xdg/cistern"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, False, "/home/me/.cache/cistern"),
        ({"HOME": "/home/me"}, False, "/home/me/.cache/cistern"),
        ({"XDG_CACHE_HOME": "/xdg"}, True, "/var/lib/cistern"),
    ],
)
def test_the_cache_directory_has_a_place_of_its_own(environ: dict[str, str], is_root: bool, expected: str) -> None:
    """Nobody said where: the XDG cache folder, or the system's place for root; a key given is taken as given."""
    assert cache_directory(environ, is_root=is_root) == Path(expected)
    assert load(None, environ | {"CISTERN_CACHE__DIRECTORY": "/srv/x"}).cache.directory == Path("/srv/x")


# Secrets


def test_a_secret_is_read_at_each_use(tmp_path: Path) -> None:
    """A rotated file is seen by the next use, and its closing line break is not part of it."""
    file = tmp_path / "secret"
    credentials = parse(f"credentials: {{c: {{username: u, password: {{file: {file}}}}}}}").credentials["c"]
    file.write_text("one\n")
    assert credentials.secret() == "one"
    file.write_text("two")
    assert credentials.secret() == "two"


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff" + CANARY.encode(), CANARY.encode() * 10_000])
def test_a_secret_that_is_not_there_names_its_file_only(tmp_path: Path, content: bytes) -> None:
    """An unusable secret is told by where it should stand, never by what stands there."""
    file = tmp_path / "secret"
    credentials = parse(f"credentials: {{c: {{username: u, password: {{file: {file}}}}}}}").credentials["c"]
    with pytest.raises(SecretUnavailable, match="cannot be read"):
        credentials.secret()
    file.write_bytes(content)
    with pytest.raises(SecretUnavailable, match=str(file)) as refused:
        credentials.secret()
    assert CANARY not in repr(refused.value)
    assert refused.value.__cause__ is None


def test_a_secret_variable_that_is_not_set_is_named() -> None:
    """An unset and an empty variable are both no secret."""
    credentials = parse("credentials: {c: {username: u, password: {env: HUB_TOKEN}}}").credentials["c"]
    for environ in ({}, {"HUB_TOKEN": ""}):
        with pytest.raises(SecretUnavailable, match="environment variable HUB_TOKEN"):
            credentials.secret(environ)


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


def test_no_representation_holds_a_secret() -> None:
    """A config printed by accident shows where secrets stand and none of them."""
    config = parse("credentials: {c: {username: u, password: {env: HUB_TOKEN}}}", environ={"HUB_TOKEN": CANARY})
    assert CANARY not in repr(config)
    assert "HUB_TOKEN" in repr(config)


def test_what_deserves_a_word_gets_a_warning(tmp_path: Path) -> None:
    """Too large a cache, private content open to the network, missing files and secrets, and idle parts are told."""
    config = parse(
        f"""
registry: {{listen: 0.0.0.0:5090}}
cache: {{directory: {tmp_path}, max_size: 2TiB}}
implicit_rules: false
upstreams:
  docker.io: {{credentials: hub}}
  quay.io: {{tls: {{ca: {tmp_path}/ca.pem}}}}
credentials:
  hub: {{username: u, password: {{env: HUB_TOKEN}}}}
  idle: {{username: u, password: {{env: IDLE}}}}
rules: [{{name: r, repository: hub/*, upstream: docker.io/*}}]
"""
    )
    found = warnings(config, {"IDLE": "x"}, lambda _: 1024**4)
    assert [line.split(":")[0] for line in found] == [
        "cache.max_size",
        "registry.listen",
        "upstreams.quay.io.tls.ca",
        "credentials.hub.password",
        "credentials.idle",
        "upstreams.quay.io",
    ]
    assert "rule r" in found[1]


@pytest.mark.parametrize(
    ("mode", "who"), [(0o600, None), (0o400, None), (0o640, "its group"), (0o604, "everybody"), (0o644, "everybody")]
)
@pytest.mark.parametrize("key", ["credentials.hub.password.file", "registry.tls.key", "blobs.key.file"])
def test_a_secret_that_others_may_read_gets_a_warning(tmp_path: Path, key: str, mode: int, who: str | None) -> None:
    """Named with its key and mode, links followed; the secret itself is never told."""
    file, link = tmp_path / "secret", tmp_path / "link"
    file.write_text(CANARY)
    file.chmod(mode)
    link.symlink_to(file)
    sections = {
        "credentials.hub.password.file": f"""
upstreams: {{docker.io: {{credentials: hub}}}}
credentials: {{hub: {{username: u, password: {{file: {link}}}}}}}""",
        "blobs.key.file": f"blobs: {{key: {{file: {link}}}}}",
        "registry.tls.key": f"registry: {{tls: {{certificate: {file}, key: {link}}}}}",
    }
    found = warnings(parse(sections[key]), {}, lambda _: None)
    wanted = [] if who is None else [f"{key}: {link} may be read by {who} (mode {mode:04o}): chmod 600"]
    assert found == wanted


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /srv rw - tmpfs tmpfs rw
31 30 0:40 / /srv/nfs\\040share rw,noatime shared:1 - nfs4 server:/export rw
32 30 0:41 / /srv/s3 rw - fuse.s3fs bucket rw
33 30 0:42 / /srv/own rw - fuse.ntfs-3g /dev/sdb rw
34 31 254:1 / /srv/nfs\\040share/local rw - xfs /dev/sdc rw
35 22 0:43 / /twice rw - ext4 /dev/sdd rw
36 22 0:44 / /twice rw - cifs //server/share rw
a line of a later kernel
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", None),
        ("/srv/cistern", None),
        ("/srv/nfs share", "nfs4"),
        ("/srv/nfs share/deep/er", "nfs4"),
        ("/srv/nfs share/local/x", None),
        ("/srv/nfs sharer", None),
        ("/srv/s3/x", "fuse.s3fs"),
        ("/srv/own/x", None),
        ("/twice/x", "cifs"),
    ],
)
def test_a_network_file_system_is_told_from_a_disk(path: str, kind: str | None) -> None:
    """The innermost and latest mount over the directory decides."""
    assert network_file_system(PurePath(path), MOUNTS) == kind
    assert network_file_system(PurePath(path), "") is None


def test_a_cache_on_a_network_file_system_is_warned_about(tmp_path: Path) -> None:
    """At start and in `check` one line says what kind it is, and what to do."""
    config = parse(f"cache: {{directory: {tmp_path}}}")
    mounts = f"1 1 0:1 / {tmp_path.parent} rw - nfs server:/x rw\n"
    [line] = warnings(config, {}, lambda _: None, lambda: mounts)
    assert line.startswith("cache.directory: ")
    assert "(nfs)" in line


def test_a_weak_data_address_gets_a_warning(tmp_path: Path) -> None:
    """Nobody here to answer, less encryption than at the registry address, no key to be had."""
    redirect = "redirect: {url: http://d, clients: [10.0.0.0/8]}"
    config = parse(
        f"""
registry: {{tls: {{certificate: {tmp_path}/c, key: {tmp_path}/k}}}}
blobs: {{{redirect}, key: {{env: DATA_KEY}}}}
"""
    )
    for name in "ck":
        (tmp_path / name).touch(mode=0o600)
    assert warnings(config, {}, lambda _: None) == [
        "blobs.redirect.url: nothing here answers at http://d: blobs.listen is not given",
        "blobs.redirect.url: http://d is not encrypted, and the registry address is",
        "blobs.key: environment variable DATA_KEY is not set or empty",
    ]
    assert warnings(parse(f"blobs: {{{redirect}, listen: 127.0.0.1:1}}"), {}, lambda _: None) == []


def test_a_plain_config_gets_no_warning(tmp_path: Path) -> None:
    """The built-in config, and private content for loopback only, need no word."""
    assert warnings(load(None, {}), {}) == []
    local = parse(
        "upstreams: {docker.io: {credentials: hub}}\ncredentials: {hub: {username: u, password: {env: HUB_TOKEN}}}"
    )
    assert warnings(local, {"HUB_TOKEN": "x"}, lambda _: None) == []
