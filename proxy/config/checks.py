"""Checks that need two keys at once; each refusal goes to the tree, at the key a person would change.

They run on whatever was readable, so that one bad key does not hide the next: `upstreams` and `rules` hold the items
that passed by themselves, while references are held against the names written down.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from proxy.config import units
from proxy.config.models import RuleConfig, UpstreamConfig
from proxy.config.names import upstream_names
from proxy.config.tree import Loc, Tree

# Keys that have their place but are not built yet: refused, never accepted and ignored.
# A line goes as its feature lands.
NOT_YET: Final[dict[str, str]] = {}
HARMLESS: Final[dict[str, tuple[object, ...]]] = {"registry.workers": (1, "1")}


@dataclass(frozen=True, slots=True)
class Parts:
    """What could be read: upstreams by the key as written, rules by their place in the list."""

    upstreams: Mapping[str, UpstreamConfig]
    rules: Mapping[int, RuleConfig]


def check(tree: Tree, parts: Parts) -> None:
    """Refuse, in the tree, every contradiction between keys."""
    _check_not_yet(tree)
    _check_listeners(tree)
    _check_upstreams(tree, parts)
    _check_references(tree, parts)
    _check_rules(tree, parts)
    _check_redirects(tree, parts)


def _check_not_yet(tree: Tree) -> None:
    for dotted, reason in NOT_YET.items():
        for loc, value in _at(tree.value, tuple(dotted.split(".")), ()):
            if value is not None and value != "none" and value not in HARMLESS.get(dotted, ()):
                tree.refuse(loc, reason)


def _at(value: object, parts: tuple[str, ...], loc: Loc) -> Iterator[tuple[Loc, object]]:
    """Every place that a dotted key with `*` names, and what stands there."""
    if not parts:
        yield loc, value
    elif isinstance(value, dict):
        for key in value if parts[0] == "*" else [parts[0]] if parts[0] in value else []:
            yield from _at(value[key], parts[1:], (*loc, key))
    elif isinstance(value, list) and parts[0] == "*":
        for index, item in enumerate(value):
            yield from _at(item, parts[1:], (*loc, index))


def _check_listeners(tree: Tree) -> None:
    taken: dict[str, str] = {}
    for room in ("registry", "admin", "blobs"):
        for loc, value in _at(tree.value, (room, "listen"), ()):
            if (
                value is not None
                and not str(value).endswith(":0")
                and (owner := taken.setdefault(str(value), room)) != room
            ):
                tree.refuse(loc, f"is the address of {owner}.listen")


def _check_upstreams(tree: Tree, parts: Parts) -> None:
    owners: dict[str, str] = {}
    for loc, _ in _at(tree.value, ("upstreams", "*"), ()):
        name = _host(loc[-1])
        if name is not None and owners.setdefault(name, str(loc[-1])) != loc[-1]:
            tree.refuse(loc, f"names the same upstream as {owners[name]}")
    for key, upstream in parts.upstreams.items():
        for index, alias in enumerate(upstream.aliases):
            if owners.setdefault(alias, key) != key:
                tree.refuse(
                    ("upstreams", key, "aliases", index), f"{alias} stands for upstream {owners[alias]} already"
                )
        _check_endpoints(tree, key, upstream, credentials=upstream.credentials is not None)


def _check_endpoints(tree: Tree, key: str, upstream: UpstreamConfig, *, credentials: bool) -> None:
    seen: set[str] = set()
    for index, endpoint in enumerate(upstream.endpoints):
        loc = ("upstreams", key, "endpoints", index, "url")
        if endpoint.url in seen:
            tree.refuse(loc, "stands in the list twice")
        seen.add(endpoint.url)
        if not endpoint.url.startswith("http://"):
            continue
        if not upstream.plain_http:
            tree.refuse(loc, "is not encrypted: use https://, or say plain_http: true")
        elif credentials and not upstream.allow_insecure_credentials:
            tree.refuse(
                loc, "would send credentials unencrypted: use https://, or say allow_insecure_credentials: true"
            )


def _check_references(tree: Tree, parts: Parts) -> None:
    sets = {str(loc[-1]) for loc, _ in _at(tree.value, ("credentials", "*"), ())}
    upstreams = {_host(loc[-1]) for loc, _ in _at(tree.value, ("upstreams", "*"), ())}
    upstreams |= {_host(alias) for _, alias in _at(tree.value, ("upstreams", "*", "aliases", "*"), ())}
    for pattern in (("upstreams", "*", "credentials"), ("rules", "*", "credentials")):
        for loc, value in _at(tree.value, pattern, ()):
            if value is not None and str(value) not in sets:
                tree.refuse(loc, f"there are no credentials {str(value)[:80]!r}")
    for loc, value in _at(tree.value, ("registry", "default_upstream"), ()):
        name = _host(value)
        if name is not None and value != "none" and name not in upstreams:
            tree.refuse(loc, f"there is no upstream {name}")
    known = upstreams | set(upstream_names(_readable(parts)))
    for index, rule in parts.rules.items():
        if rule.upstream.host not in known:
            tree.refuse(("rules", index, "upstream"), f"there is no upstream {rule.upstream.host}")


def _check_rules(tree: Tree, parts: Parts) -> None:
    upstreams = _readable(parts)
    by_name = upstream_names(upstreams)
    names: dict[str, int] = {}
    repositories: dict[str, int] = {}
    for index, rule in parts.rules.items():
        loc = ("rules", index)
        if names.setdefault(rule.name, index) != index:
            tree.refuse((*loc, "name"), f"rule {names[rule.name] + 1} in the list has this name already")
        if rule.repository is not None:
            if repositories.setdefault(str(rule.repository), index) != index:
                first = parts.rules[repositories[str(rule.repository)]]
                tree.refuse((*loc, "repository"), f"rule {first.name} has the same repository")
            if rule.repository.is_wildcard != rule.upstream.pattern.is_wildcard:
                tree.refuse((*loc, "upstream"), "a closing * must stand in both repository and upstream, or in neither")
        upstream = by_name.get(rule.upstream.host)
        if upstream is not None:
            _check_rule(tree, loc, rule, upstreams[upstream])
        if rule.name in by_name and not _covers(rule, by_name[rule.name], by_name):
            tree.refuse((*loc, "name"), f"is the name of upstream {by_name[rule.name]}, whose own rule is called so")


def _check_redirects(tree: Tree, parts: Parts) -> None:
    has_default = any(isinstance(value, dict) for _, value in _at(tree.value, ("blobs", "redirect"), ()))
    for index, rule in parts.rules.items():
        own = None if rule.blobs is None else rule.blobs.redirect
        for key in ("url", "clients") if own is not None and not has_default else ():
            if getattr(own, key) is None:
                tree.refuse(("rules", index, "blobs", "redirect", key), "is missing, and blobs.redirect gives none")


def _check_rule(tree: Tree, loc: Loc, rule: RuleConfig, upstream: UpstreamConfig) -> None:
    urls = [endpoint.url for endpoint in upstream.endpoints]
    if rule.endpoint is not None and rule.endpoint not in urls:
        tree.refuse((*loc, "endpoint"), f"is not among the upstream's endpoints: {', '.join(urls)}")
    plain = [url for url in urls if url.startswith("http://") and rule.endpoint in (None, url)]
    if rule.credentials is not None and plain and not upstream.allow_insecure_credentials:
        tree.refuse(
            (*loc, "credentials"), f"would go unencrypted to {plain[0]}: the upstream lacks allow_insecure_credentials"
        )


def _covers(rule: RuleConfig, upstream: str, names: Mapping[str, str]) -> bool:
    """The rule is for all of the upstream, and so stands in the place of its implicit rule."""
    pattern = rule.upstream.pattern
    return names.get(rule.upstream.host) == upstream and pattern.is_wildcard and not pattern.literal


def _readable(parts: Parts) -> dict[str, UpstreamConfig]:
    return {name: upstream for key, upstream in parts.upstreams.items() if (name := _host(key)) is not None}


def _host(written: object) -> str | None:
    try:
        return units.host(written)
    except ValueError:
        return None
