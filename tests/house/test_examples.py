"""Every file in config/ loads, and the full one has every key."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import yaml

from proxy.check import render
from proxy.config import NOT_YET, Config, load
from proxy.config.section import Section
from tests.house.source import ROOT, name_of

EXAMPLES: Final = sorted((ROOT / "config").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=name_of)
def test_an_example_loads(path: Path) -> None:
    """A file in config/ can be used as it stands, with an empty environment, and `check` shows its rules."""
    config = load(path, {})
    assert all(rule.name in render(config) for rule in config.rules)


def test_the_examples_are_there() -> None:
    """The scenarios that the README names have a file each."""
    assert {path.stem for path in EXAMPLES} >= {"smallest", "full", "sidecar", "site-cache"}


@pytest.mark.real
def test_the_load_balancer_example_loads() -> None:
    """HAProxy itself finds nothing to warn about."""
    found = subprocess.run(
        ["haproxy", "-c", "-f", ROOT / "config" / "haproxy.cfg"],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/sbin:/usr/bin"},
    )
    assert (found.returncode, found.stderr) == (0, ""), found.stderr


def test_the_full_example_has_every_key() -> None:
    """Each key that the models know stands in full.yaml, but for the ones that are not built yet."""
    written = set(_keys_written(yaml.safe_load((ROOT / "config" / "full.yaml").read_text())))
    unbuilt = {key for key in NOT_YET if "." not in key}
    assert set(_keys_known(Config)) - written - unbuilt == set()


def _keys_written(value: Any) -> Iterator[str]:
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield key
        yield from _keys_written(inner)
    for item in value if isinstance(value, list) else ():
        yield from _keys_written(item)


def _keys_known(model: type[Section]) -> Iterator[str]:
    for field in model.fields().values():
        yield field.alias
        for section in _sections_in(field.hint):
            yield from _keys_known(section)


def _sections_in(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections_in(inner)
