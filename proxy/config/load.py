"""From a file, the environment and flags to a `Config`, or to every problem at once.

The one door: file -> tree, variables and flags over it, defaults into it, models, checks between keys. Reads the file
and nothing else; the environment is an argument.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeVar

from proxy.collector import undisturbed
from proxy.config import builtin, checks, units
from proxy.config import environ as variables
from proxy.config import tree as trees
from proxy.config.models import Config, RuleConfig, UpstreamConfig
from proxy.config.section import Section, SectionRefused
from proxy.config.tree import Tree
from proxy.errors import ConfigInvalid

Item = TypeVar("Item", bound=Section)
BUILT_IN: Final = "built-in"


def load(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, tuple[str, str]] | None = None) -> Config:
    """The configuration of `path`, or the built-in one for None.

    `environ` gives the CISTERN_ variables; `flags` maps a flag to its dotted key and text (`--listen` ->
    ("registry.listen", "0.0.0.0:80")) and wins over both. Raises ConfigInvalid with every problem as
    `FILE:LINE: key: reason`, or with the variable's or flag's name in the place of file and line.
    """
    if path is None:
        return _config(Tree(BUILT_IN, origins={(): BUILT_IN}), environ, flags or {})
    try:
        text = path.read_bytes().decode()
    except OSError as cause:
        raise ConfigInvalid([f"{path}:1: cannot be read: {os.strerror(cause.errno or 0)}"]) from cause
    except UnicodeDecodeError as cause:
        raise ConfigInvalid([f"{path}:1: is not UTF-8 text"]) from cause
    return parse(text, str(path), environ, flags)


def parse(
    text: str,
    source: str = "config",
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, tuple[str, str]] | None = None,
) -> Config:
    """As `load`, from YAML text; `source` stands in for the file's name."""
    with undisturbed():
        return _config(trees.read(text, source), environ or {}, flags or {})


def _config(tree: Tree, environ: Mapping[str, str], flags: Mapping[str, tuple[str, str]]) -> Config:
    variables.apply(tree, environ)
    for flag, (key, written) in flags.items():
        variables.put(tree, tuple(key.split(".")), written, flag)
    builtin.fill(tree, environ)
    config = _validated(tree)
    checks.check(tree, _parts(tree, config))
    if tree.problems or config is None:
        problems = sorted(dict.fromkeys(tree.problems), key=lambda problem: problem.line)
        raise ConfigInvalid([str(problem) for problem in problems])
    return config


def _validated(tree: Tree) -> Config | None:
    """The models, or None and a refusal for each thing wrong with one value or one section."""
    try:
        return Config.parse(tree.value)
    except SectionRefused as refused:
        for loc, reason in refused.problems:
            tree.refuse(loc, reason)
        return None


def _parts(tree: Tree, config: Config | None) -> checks.Parts:
    """The items to check against each other: all of a valid config, else those that are valid by themselves."""
    given = tree.value["upstreams"]
    rules = tree.value.get("rules")
    upstreams: dict[str, UpstreamConfig] = {}
    for key, item in given.items() if isinstance(given, dict) else ():
        upstream = config.upstreams.get(units.host(key)) if config else _alone(UpstreamConfig, item)
        if upstream is not None:
            upstreams[key] = upstream
    if config is not None:
        return checks.Parts(upstreams, dict(enumerate(config.rules)))
    alone = {n: _alone(RuleConfig, item) for n, item in enumerate(rules if isinstance(rules, list) else ())}
    return checks.Parts(upstreams, {n: rule for n, rule in alone.items() if rule is not None})


def _alone(kind: type[Item], item: object) -> Item | None:
    try:
        return kind.parse(item)
    except SectionRefused:
        return None
