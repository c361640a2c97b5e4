"""Variables and flags over the config file: which goes before which, and how a bad one is named."""

import json
from pathlib import Path

import pytest

from proxy.config import ConfigInvalid, load, parse
from proxy.config.builtin import cache_directory
from tests.support.refused import CANARY, problems_of


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
