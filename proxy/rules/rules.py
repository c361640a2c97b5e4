"""The rules of one configuration, and the one question they answer: where does this name lead?

A request names its content by `ns`, by a prefix before /v2, by an upstream's name as first path component, or by a
rule's own path; contract.md section 3, "Which rule". The first three are looked up among the rules' upstream side, the
last among their repository side: exact before wildcard, longer before shorter, explicit before implicit, first before
second. `ns` and prefix may stand beside a path that names an upstream too: `ns` wins over prefix, both over the path,
and a first component that names the same upstream is taken off, if it has a dot as registries do. (Without that, an
organisation `hub` at Docker Hub would vanish behind an alias `hub`.)

Invariants: a name is a key, never an address. A deny rule judges the final upstream repository, however the client
named it: of the rules whose upstream side matches that one the most specific decides, and of equals the denial. So an
allowing rule is an exception to a denial only where its upstream side is longer, and then for every form of the name.
"""

import re
from collections.abc import Iterator, Set
from typing import Final

from proxy import oci
from proxy.config import Config, RuleConfig, upstream_names
from proxy.errors import Denied, NameInvalid, NameUnknown
from proxy.rules.table import Rule, Table
from proxy.rules.words import Overlap, Place, Route, RuleView, Source

NAMESPACE: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)
NAMESPACE_MAX: Final = 262  # a host name of 255, a colon, a port


class Rules:
    """Explicit rules in the file's order, then an implicit one for each upstream that has none of its own. `limits`
    are the soft `max_size` of those that have one, in bytes.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._names = upstream_names(config.upstreams)
        self._paths = Table()
        self._upstreams = {name: Table() for name in config.upstreams}
        default = config.registry.default_upstream
        self._default = None if default is None else self._names[default]
        self._policies = {public: config.tags.policy(None, public=public) for public in (True, False)}
        self._redirect = config.blobs.redirect_for(None)
        self._rules = [self._explicit(rule) for rule in config.rules]
        for rule in self._rules:
            self._upstreams[rule.upstream].add(rule.within, rule)
            if rule.repository is not None:
                self._paths.add(rule.repository, rule)
        for name in config.upstreams if config.implicit_rules else ():
            if self._upstreams[name].standing("", is_wildcard=True) is None:
                rule = self._implicit(name)
                self._upstreams[name].add("", rule)
                self._rules.append(rule)
        self._by_name = {rule.view.name: rule for rule in self._rules}
        self._listing: tuple[RuleView, ...] | None = None
        self.limits = {rule.name: rule.max_size for rule in config.rules if rule.max_size is not None}

    def route(self, name: str, *, namespace: str | None = None, prefix: str | None = None) -> Route:
        """Where `name` leads: the repository name of the path, with the `ns` value and the prefix before /v2, if any.

        Raises NameUnknown (nothing matches), NameInvalid (`ns` or the rewritten name cannot be one), Denied.
        """
        asked = namespace if namespace is not None else prefix
        if asked is not None:
            upstream, normalised = self._upstream_of(asked)
            rest = self._without(upstream, name)
            return self._mirrored(name, upstream, rest, None if namespace is None else normalised)
        first, _, rest = name.partition("/")
        named = self._names.get(first)
        if named is not None and rest:
            return self._mirrored(name, named, rest)
        rule = self._paths.find(name)
        if rule is not None:
            return self._rewritten(name, rule)
        if self._default is None or "." in first or ":" in first:
            raise NameUnknown(f"no rule and no upstream for {name}")
        return self._mirrored(name, self._default, name)

    def route_in(self, rule_name: str, place: Place) -> Route | None:
        """The route of a rule to a place it once led to; None if it no longer does, since a job outlives a config."""
        rule = self._by_name.get(rule_name)
        if rule is None or not rule.covers(place.repository):
            return None
        judge = self._upstreams[rule.upstream].find(place.repository)
        if judge is None or judge.view.deny:
            return None
        name = f"{rule.upstream}/{place.repository}"
        route = _route(name, rule, place.repository, is_mirror=True, namespace=None)
        return route if route.place == place else None

    def leading_to(self, place: Place) -> Iterator[Route]:
        """Every route to a place, the most specific rule first: a few looks, however many rules there are."""
        table = self._upstreams.get(place.scope.partition("|")[0])
        for rule in () if table is None else table.every(place.repository):
            if (route := self.route_in(rule.view.name, place)) is not None:
                yield route

    def named(self, name: str) -> RuleView | None:
        """The rule of this name."""
        rule = self._by_name.get(name)
        return None if rule is None else rule.view

    @property
    def names(self) -> Set[str]:
        """The names of all rules."""
        return self._by_name.keys()

    def listing(self) -> tuple[RuleView, ...]:
        """Every rule in the order of matching: exact, then longer before shorter, explicit before implicit."""
        if self._listing is None:
            self._listing = tuple(rule.view for rule in sorted(self._rules, key=_specificity))
        return self._listing

    def overlaps(self) -> tuple[Overlap, ...]:
        """Explicit rules that match some of the same names, each with the one that is taken before it or after it."""
        found: list[Overlap] = []
        for rule in self._rules:
            if not rule.view.implicit:
                found += self._overlaps_of(rule)
        return tuple(found)

    def _overlaps_of(self, rule: Rule) -> list[Overlap]:
        name, table = rule.view.name, self._upstreams[rule.upstream]
        found: list[Overlap] = []
        held = table.standing(rule.within, is_wildcard=rule.is_wildcard)
        if held is not None and held is not rule:
            why = "denies" if held.view.deny and not rule.view.deny else "stands for"
            found.append(Overlap(held.view.name, name, f"both have upstream {rule.view.upstream}: the first {why} it"))
        wider = next(table.over(rule.within), None)
        if wider is not None and not wider.view.implicit:
            reason = f"upstream {rule.view.upstream} is more specific than {wider.view.upstream}"
            found.append(Overlap(name, wider.view.name, reason))
        if rule.repository is None:
            return found
        wider = next(self._paths.over(rule.repository), None)
        if wider is not None:
            reason = f"repository {rule.view.repository} is more specific than {wider.view.repository}"
            found.append(Overlap(name, wider.view.name, reason))
        hidden = self._names.get(rule.repository.partition("/")[0])
        if hidden is not None and rule.view.repository != rule.view.upstream:
            taken = self._upstreams[hidden].find(rule.repository.partition("/")[2] + "x")
            reason = (
                f"repository {rule.view.repository} begins with an upstream's name, so it is never matched as a path"
            )
            found.append(Overlap(taken.view.name if taken else hidden, name, reason))
        return found

    def _upstream_of(self, asked: str) -> tuple[str, str]:
        """The upstream that `ns` or a prefix names, and the text normalised: lower case, without a default port."""
        text = asked.lower()
        # Before lower(), since other alphabets have letters that become ASCII ones.
        if not asked.isascii() or len(text) > NAMESPACE_MAX or NAMESPACE.fullmatch(text) is None:
            raise NameInvalid(f"not the name of a registry: {asked[:80]!r}")
        upstream = self._names.get(text)
        if upstream is None:
            raise NameUnknown(f"no upstream is called {text}")
        text = text.removesuffix(":443")
        return upstream, text.removesuffix(":80") if self._config.upstreams[upstream].plain_http else text

    def _without(self, upstream: str, name: str) -> str:
        first, slash, rest = name.partition("/")
        return rest if slash and "." in first and self._names.get(first) == upstream else name

    def _mirrored(self, name: str, upstream: str, rest: str, namespace: str | None = None) -> Route:
        repository = oci.repository(self._official(upstream, rest))
        rule = self._upstreams[upstream].find(repository)
        if rule is None:
            raise NameUnknown(f"no rule leads to {upstream}/{repository}")
        _refuse_denied(rule, repository)
        return _route(name, rule, repository, is_mirror=True, namespace=namespace)

    def _rewritten(self, name: str, rule: Rule) -> Route:
        rest = name[len(rule.repository or "") :] if rule.is_wildcard else ""
        repository = oci.repository(self._official(rule.upstream, rule.within + rest))
        judge = self._upstreams[rule.upstream].find(repository)
        if judge is not None:
            _refuse_denied(judge, repository)
        return _route(name, rule, repository, is_mirror=False, namespace=None)

    def _official(self, upstream: str, repository: str) -> str:
        """`nginx` means `library/nginx` at Docker Hub; both are one place."""
        prefix = self._config.upstreams[upstream].official_prefix
        return repository if prefix is None or "/" in repository else f"{prefix}/{repository}"

    def _explicit(self, rule: RuleConfig) -> Rule:
        config, upstream, pattern = self._config, self._names[rule.upstream.host], rule.upstream.pattern
        within = pattern.literal if pattern.is_wildcard else self._official(upstream, pattern.literal)
        credentials = rule.credentials or config.upstreams[upstream].credentials
        public = rule.public or credentials is None
        view = RuleView(
            name=rule.name,
            repository=None if rule.repository is None else str(rule.repository),
            upstream=f"{upstream}/{within}{'*' if pattern.is_wildcard else ''}",
            credentials=credentials,
            endpoint=rule.endpoint,
            tags=self._policies[public] if rule.tags is None else config.tags.policy(rule.tags, public=public),
            hydrate=(rule.hydrate or config.hydrate).image != "none",
            public=public,
            deny=rule.deny,
            implicit=False,
            max_bytes=rule.max_size,
            redirect=self._redirect if rule.blobs is None else config.blobs.redirect_for(rule.blobs),
        )
        repository = None if rule.repository is None else rule.repository.literal
        return Rule(view=view, upstream=upstream, within=within, repository=repository, is_wildcard=pattern.is_wildcard)

    def _implicit(self, name: str) -> Rule:
        credentials = self._config.upstreams[name].credentials
        view = RuleView(
            name=name,
            repository=f"{name}/*",
            upstream=f"{name}/*",
            credentials=credentials,
            endpoint=None,
            tags=self._policies[credentials is None],
            hydrate=self._config.hydrate.image != "none",
            public=credentials is None,
            deny=False,
            implicit=True,
            redirect=self._redirect,
        )
        return Rule(view=view, upstream=name, within="", repository=None, is_wildcard=True)


def _refuse_denied(rule: Rule, repository: str) -> None:
    if rule.view.deny:
        raise Denied(f"rule {rule.view.name} denies {rule.upstream}/{repository}")


def _route(name: str, rule: Rule, repository: str, *, is_mirror: bool, namespace: str | None) -> Route:
    view = rule.view
    return Route(
        rule=view.name,
        source=Source(rule.upstream, repository, view.credentials, view.endpoint),
        client_repository=name,
        tags=view.tags,
        hydrate=view.hydrate,
        public=view.public,
        is_mirror=is_mirror,
        namespace=namespace,
        redirect=view.redirect,
    )


def _specificity(rule: Rule) -> tuple[bool, int, bool]:
    """Sorts in the order of matching; the sort keeps the file's order among equals."""
    return rule.is_wildcard, -len(rule.within), rule.view.implicit
