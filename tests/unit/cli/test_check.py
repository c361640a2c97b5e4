"""`check`, and what every command says to a bad configuration."""

import re
from pathlib import Path

from proxy.config import WELL_KNOWN
from tests.support.commands import Cistern

# check


def test_check_lists_every_problem(cistern: Cistern, tmp_path: Path) -> None:
    """`FILE:LINE: key: reason` for each of them, and exit code 2."""
    config = tmp_path / "bad.yaml"
    config.write_text("registry:\n  listen: nowhere\nhydrat: {}\ntags: {fresh_for: soon}\n")
    ran = cistern("check", "--config", config)
    assert (ran.code, ran.out) == (2, "")
    assert [line.split(": ")[:2] for line in ran.err.splitlines()] == [
        [f"{config}:2", "registry.listen"],
        [f"{config}:3", "hydrat"],
        [f"{config}:4", "tags.fresh_for"],
    ]


def test_a_command_that_needs_a_bad_config_lists_its_problems_too(cistern: Cistern, tmp_path: Path) -> None:
    """`serve` and the asking commands refuse it as `check` does."""
    config = tmp_path / "bad.yaml"
    config.write_text("hydrat: {}\n")
    for command in ("serve", "images", "status"):
        ran = cistern(command, "--config", config)
        assert (ran.code, ran.err) == (2, f"{config}:1: hydrat: unknown key, did you mean hydrate?\n")


def test_check_prints_the_rules(cistern: Cistern) -> None:
    """The built-in ones: every well-known registry."""
    ran = cistern("check")
    assert ran.code == 0
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == list(WELL_KNOWN)


def test_check_prints_warnings_beside_the_rules(cistern: Cistern, tmp_path: Path) -> None:
    """What is allowed but deserves a word goes to standard error."""
    config = tmp_path / "idle.yaml"
    config.write_text("credentials: {idle: {username: me, password: {env: NOT_SET_HERE}}}\n")
    ran = cistern("check", "--config", config)
    assert ran.code == 0
    assert "cistern: warning: credentials.idle.password: environment variable NOT_SET_HERE" in ran.err
    assert "warning" not in ran.out


def test_check_prints_what_a_firewall_must_let_through(cistern: Cistern) -> None:
    """Hosts and ports only, one a line."""
    ran = cistern("check", "--egress")
    assert ran.code == 0
    assert "registry-1.docker.io:443" in [line.split()[0] for line in ran.out.splitlines()]
    assert all(re.match(r"\S+:\d+ +# ", line) for line in ran.out.splitlines())


# serve


def test_serve_flags_win_and_are_checked(cistern: Cistern) -> None:
    """A bad flag is named as such, with all others."""
    ran = cistern("serve", "--listen", "nowhere", "--admin", "here", "--workers", "many")
    assert ran.code == 2
    assert {line.partition(": ")[0] for line in ran.err.splitlines()} == {"--admin", "--listen", "--workers"}
