"""From a file, the environment and flags to a `Config`, or to every problem at once.

The one door: file -> tree, variables and flags over it, defaults into it, models, checks between keys. Reads the file
and nothing else; the environment is an argument.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from proxy.collector import undisturbed
from proxy.config import builtin, checks, units
from proxy.config import environ as variables
from proxy.config import tree as trees
from proxy.config.fields import Section
from proxy.config.models import Config, RuleConfig, UpstreamConfig
from proxy.config.tree import Loc, Tree
from proxy.errors import ConfigInvalid

Item = TypeVar("Item", bound=Section)
BUILT_IN: Final = "built-in"
REASONS: Final = {
    "missing": "is missing",
    "model_type": "must be a map of keys",
    "dict_type": "must be a map of keys",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "frozen_set_type": "must be a list",
    "too_short": "must not be empty",
}


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
        return Config.model_validate(tree.value)
    except ValidationError as invalid:
        # Without inputs: a password written in the wrong place must not come back in the message.
        for error in invalid.errors(include_url=False, include_input=False):
            loc: Loc = tuple(part for part in error["loc"] if part != "[key]")
            tree.refuse(loc, _reason(loc, error["type"], error["msg"], error.get("ctx", {})))
        return None


def _reason(loc: Loc, kind: str, message: str, context: Mapping[str, Any]) -> str:
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(loc[-1]), _keys_beside(loc), n=1)
        return f"unknown key, did you mean {near[0]}?" if near else "unknown key"
    if kind == "value_error":
        return str(context["error"])
    return REASONS.get(kind) or message.replace("Input should be", "must be")


def _keys_beside(loc: Loc) -> list[str]:
    """The keys that the section of `loc` knows."""
    section: type[BaseModel] | None = Config
    for part in loc[:-1]:
        if section is None:
            return []
        field = next((f for name, f in section.model_fields.items() if part in (f.alias or name, name)), None)
        # A name within a map, or a place within a list: still the section of its items.
        section = section if field is None else _section_in(field.annotation)
    return [f.alias or name for name, f in section.model_fields.items()] if section is not None else []


def _section_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_in(inner)) is not None), None)


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
        return kind.model_validate(item)
    except ValidationError:
        return None
