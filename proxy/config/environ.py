"""Keys set by environment variables and flags, over those of the file.

`CISTERN_CACHE__MAX_SIZE=20GiB` sets cache.max_size; a map or list is set whole, as JSON. A name that is no key is
refused by name, but for those in NOT_KEYS, those that a `{env: NAME}` of the config points to, and those that
Kubernetes and Docker links put into every container beside a service called cistern.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from proxy.config.models import Config
from proxy.config.section import Section
from proxy.config.tree import Loc, Problem, Tree

PREFIX: Final = "CISTERN_"
NOT_KEYS: Final = frozenset({"CISTERN_CONFIG", "CISTERN_ADMIN", "CISTERN_ADMIN_TOKEN"})
SERVICE_LINK: Final = re.compile(
    r"CISTERN(?:_[A-Z0-9]+)*_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
IPV6_ADDRESS: Final = re.compile(r"\[[0-9A-Fa-f:.]+\]:[0-9]+")  # begins like a JSON list
TOP_KEYS: Final = frozenset(key.alias for key in Config.fields().values())


def apply(tree: Tree, environ: Mapping[str, str]) -> None:
    """Set every key that a CISTERN_ variable names; outer keys before inner ones."""
    names = sorted((name.count("__"), name) for name in environ if name.startswith(PREFIX))
    unknown: list[str] = []
    for _, name in names:
        loc = tuple(name.removeprefix(PREFIX).lower().split("__"))
        if name in NOT_KEYS or (len(loc) == 1 and SERVICE_LINK.fullmatch(name)):
            continue
        if loc[0] in TOP_KEYS:
            put(tree, loc, environ[name], name)
        else:
            unknown.append(name)
    secrets = set(_secret_variables(tree.value))
    for name in sorted(set(unknown) - secrets):
        _refuse_unknown(tree, name)


def put(tree: Tree, loc: tuple[str, ...], written: str, origin: str) -> None:
    """Set the key at `loc` to what `written` says; problems name `origin`, the variable or flag."""
    try:
        value = _value_of(written)
    except ValueError as cause:
        tree.problems.append(Problem(0, origin, ".".join(loc), f"is not valid JSON: {cause}"))
        return
    target = tree.value
    path: Loc = ()
    for part in loc[:-1]:
        path = (*path, key := _key_like(target, part))
        inner = target.get(key)
        if inner is None:
            inner = target[key] = {}
            tree.origins[path] = origin
        if not isinstance(inner, dict):
            tree.problems.append(Problem(0, origin, ".".join(loc), f"{'.'.join(map(str, path))} is set whole, as JSON"))
            return
        target = inner
    key = _key_like(target, loc[-1])
    target[key] = value
    # Whatever the file or a variable had there and below.
    for old in [mark for mark in tree.origins if mark[: len(path) + 1] == (*path, key)]:
        del tree.origins[old]
    tree.origins[(*path, key)] = origin


def _key_like(target: Mapping[str, object], part: str) -> str:
    """The key as the file spells it: variables have no case."""
    return next((key for key in target if key.lower() == part), part)


def _value_of(written: str) -> object:
    if not written.lstrip().startswith(("{", "[")) or IPV6_ADDRESS.fullmatch(written):
        return written
    try:
        return json.loads(written, object_pairs_hook=_unique)
    except json.JSONDecodeError as cause:
        raise ValueError(f"{cause.msg} at character {cause.pos + 1}") from None  # its cause carries the text
    except RecursionError:
        raise ValueError("nested too deep") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def _secret_variables(given: Mapping[str, object]) -> Iterator[str]:
    credentials, blobs = given.get("credentials"), given.get("blobs")
    items = credentials.values() if isinstance(credentials, dict) else ()
    secrets = [item.get("password") for item in items if isinstance(item, dict)]
    secrets += [blobs.get("key")] if isinstance(blobs, dict) else []
    for secret in secrets:
        name = secret.get("env") if isinstance(secret, dict) else None
        if isinstance(name, str):
            yield name


def _refuse_unknown(tree: Tree, name: str) -> None:
    spelled = {key.replace("__", "_"): key for key in _variables()}
    near = difflib.get_close_matches(name.replace("__", "_"), spelled, n=1, cutoff=0.85)
    hint = f", did you mean {spelled[near[0]]}?" if near else ""
    tree.problems.append(Problem(0, name, "", f"no such key{hint}"))


def _variables() -> Iterator[str]:
    """The variables of the keys that have a fixed name."""
    for key in Config.fields().values():
        top = PREFIX + key.alias.upper()
        yield top
        if isinstance(key.hint, type) and issubclass(key.hint, Section):
            yield from (f"{top}__{inner.alias.upper()}" for inner in key.hint.fields().values())
