"""What users are promised in words: every key, variable, command, metric, error code and make target is described."""

import ast
import re
from collections.abc import Iterator
from typing import Any, Final, get_args, get_origin

import pytest
from typer.main import get_command

from proxy import cli
from proxy.config import FIXED
from proxy.config.environ import NOT_KEYS
from proxy.config.models import Config
from proxy.config.section import Section
from proxy.errors import ANSWERS
from tests.house.source import ROOT, python_files, tree_of

PAGES: Final = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORDS: Final = "\n".join(page.read_text() for page in PAGES)
KEY_PAGE: Final = (ROOT / "docs" / "configuration.md").read_text()

# How the items of a map and of a list are written in a dotted key.
MARKS: Final[dict[Any, str]] = {dict: ".NAME", tuple: "[]"}


def sections_in(annotation: Any) -> Iterator[tuple[str, type[Section]]]:
    """The sections within a key's type, with how a map's or a list's items are written in a dotted key."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield "", annotation
        return
    mark = MARKS.get(get_origin(annotation), "")
    for inner in get_args(annotation):
        yield from ((mark + rest, section) for rest, section in sections_in(inner))


def keys_of(section: type[Section], prefix: str) -> Iterator[str]:
    """Every dotted key below `prefix`; a rule's `tags` and `blobs` stand for the keys of the file's."""
    for field in section.fields().values():
        key = f"{prefix}{field.alias}"
        inner = [] if key in ("rules[].tags", "rules[].blobs") else list(sections_in(field.hint))
        if not inner:
            yield key
        for mark, found in inner:
            yield from keys_of(found, f"{key}{mark}.")


# `builtin` stands among the names of upstreams and is no model's field.
KEYS: Final = {"upstreams.builtin", *keys_of(Config, "")}
TARGETS: Final = re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
COMMANDS: Final = getattr(get_command(cli.app), "commands", {})
# Told once for all commands that have them.
EVERYWHERE: Final = {"--help", "--json", "--admin", "--config"}
METRICS: Final = sorted(
    {
        node.value
        for path in python_files("proxy")
        if "metrics" in path.relative_to(ROOT).with_suffix("").parts
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"cistern_[a-z]+(_[a-z]+)*", node.value)
    }
)


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_key_is_described(key: str) -> None:
    """Every key that a config file may hold has its row, with default and meaning."""
    assert f"\n| `{key}` | " in KEY_PAGE


def test_every_described_key_exists() -> None:
    """The page describes no key that would be refused as unknown."""
    rows = set(re.findall(r"^\| `([a-z][\w.\[\]]*)` \|", KEY_PAGE, re.MULTILINE | re.IGNORECASE))
    assert {row for row in rows if not row.startswith("CISTERN_")} == KEYS


def test_a_key_that_needs_a_restart_says_so() -> None:
    """Exactly those; of `registry.tls` the first of its two keys speaks for both."""
    rows = re.findall(r"^\| `([a-z.]+)` \|.*restart", KEY_PAGE, re.MULTILINE | re.IGNORECASE)
    assert {row.replace("registry.tls.certificate", "registry.tls") for row in rows} == set(FIXED)


@pytest.mark.parametrize("variable", sorted(NOT_KEYS))
def test_a_variable_is_described(variable: str) -> None:
    """Every variable that is no key says what it is for."""
    assert f"| `{variable}` |" in KEY_PAGE


@pytest.mark.parametrize("code", sorted({code for _, code in ANSWERS.values()}))
def test_an_error_code_is_described(code: str) -> None:
    """Every code a client may read has its row, and when it is sent."""
    assert f"| `{code}` |" in WORDS


@pytest.mark.parametrize(("status", "code"), sorted(set(ANSWERS.values())))
def test_an_error_status_is_described(status: int, code: str) -> None:
    """The row of a code names every status it comes with."""
    [row] = [line for line in WORDS.splitlines() if line.startswith(f"| `{code}` |")]
    assert str(status) in row.split("|")[2]


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_is_described(name: str) -> None:
    """Every metric has its row; a counter is named with its `_total`."""
    assert f"| `{name}` |" in WORDS or f"| `{name}_total` |" in WORDS


def test_the_metrics_are_found() -> None:
    """The search above finds the names: a metric that were made otherwise would escape it."""
    assert len(METRICS) > 20


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_described(name: str) -> None:
    """Every command has its row, and every flag of its own stands in that row."""
    [row] = [line for line in WORDS.splitlines() if re.match(rf"\| `cistern {name}[ `]", line)]
    flags = {flag for parameter in COMMANDS[name].params for flag in parameter.opts if flag.startswith("--")}
    assert {flag for flag in flags - EVERYWHERE if flag not in row} == set()


def test_every_described_command_exists() -> None:
    """No page promises a command, or a metric, that is not there."""
    assert set(re.findall(r"^\| `cistern ([a-z-]+)", WORDS, re.MULTILINE)) == set(COMMANDS)
    described = set(re.findall(r"^\| `(cistern_[a-z_]+)` \|", WORDS, re.MULTILINE))
    assert {name for name in described if name not in METRICS and name.removesuffix("_total") not in METRICS} == set()


@pytest.mark.parametrize("target", TARGETS)
def test_a_make_target_is_described(target: str) -> None:
    """Every target of the Makefile has its row, and is not taken for a file."""
    assert f"| `make {target}` |" in WORDS
    assert target in re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0].split()
