"""How a bad config file is refused: every problem at once, each with its line, and no secret in any."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import Config, ConfigInvalid, load, parse
from tests.support.refused import CANARY, only_problem_of, problems_of


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
