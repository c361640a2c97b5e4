"""What `cistern check` prints: the rules as they match, which of them overlap, and what a firewall must let through.

Pure: configuration in, text out. Knows nothing of a running server.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from proxy.config import OTHER_HOSTS, Config, UpstreamConfig
from proxy.rules import Rules, RuleView

HEADINGS: Final = ("RULE", "REPOSITORY", "UPSTREAM", "CREDENTIALS", "NOTES")


def render(config: Config) -> str:
    """The rules in the order they match, one a line, and the overlaps; ends without a line break."""
    rules = Rules(config)
    listing = rules.listing()
    lines = list(_aligned([HEADINGS, *map(_row, listing)]))
    if not listing:
        lines.append("(no rule: every request is answered 404)")
    overlaps = rules.overlaps()
    if overlaps:
        lines += ["", "Overlaps, the rule that is taken first:"]
        lines += [f"  {overlap.rule} before {overlap.other}: {overlap.reason}" for overlap in overlaps]
    return "\n".join(lines)


def _row(rule: RuleView) -> tuple[str, ...]:
    notes = ["denied"] if rule.deny else []
    notes += ["implicit"] if rule.implicit else []
    notes += ["private"] if not (rule.public or rule.deny) else []
    notes += [f"only {rule.endpoint}"] if rule.endpoint else []
    notes += [f"blobs from {rule.redirect.url}"] if rule.redirect and not rule.deny else []
    credentials = "-" if rule.deny else rule.credentials or "-"
    return rule.name, rule.repository or "-", rule.upstream, credentials, ", ".join(notes)


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def egress(config: Config, environ: Mapping[str, str] | None = None) -> list[str]:
    """Every `host:port` to allow in a firewall, each once. `*.` stands for hosts that vary by region."""
    return list(dict.fromkeys(target for target, _ in _egress(config, environ or {})))


def render_egress(config: Config, environ: Mapping[str, str] | None = None) -> str:
    """The same, one a line, each with a comment that says what for."""
    reasons: dict[str, list[str]] = {}
    for target, reason in _egress(config, environ or {}):
        reasons.setdefault(target, []).append(reason)
    return "\n".join(_aligned([(target, f"# {'; '.join(dict.fromkeys(why))}") for target, why in reasons.items()]))


def _egress(config: Config, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, upstream in config.upstreams.items():
        for endpoint in upstream.endpoints:
            yield target_of(endpoint.url), f"{name}: endpoint"
            for target, reason in OTHER_HOSTS.get(endpoint.url, ()):
                yield target, f"{name}: {reason}"
        yield from ((_with_port(host), f"{name}: trusted realm") for host in upstream.trusted_realms)
        yield from ((_with_port(host), f"{name}: trusted redirect") for host in upstream.trusted_redirects)
        yield from ((target, "egress proxy") for target in _proxies(upstream, environ))


def _proxies(upstream: UpstreamConfig, environ: Mapping[str, str]) -> Iterable[str]:
    """The proxy of this upstream's connections. NO_PROXY is not looked at: redirects may lead anywhere."""
    if upstream.proxy == "none":
        return
    if upstream.proxy != "env":
        yield target_of(upstream.proxy)
        return
    for scheme in ("https", "http"):
        url = environ.get(f"{scheme}_proxy") or environ.get(f"{scheme.upper()}_PROXY")
        if url and any(endpoint.url.startswith(f"{scheme}:") for endpoint in upstream.endpoints):
            yield target_of(url)


def target_of(url: str) -> str:
    """`HOST:PORT` of a URL, without its userinfo."""
    scheme, _, rest = url.rpartition("://")
    authority = rest.split("/", 1)[0].rpartition("@")[2]
    return _with_port(authority, 80 if scheme == "http" else 443)


def _with_port(host: str, port: int = 443) -> str:
    if "/" in host or ":" in host.rpartition("]")[2]:
        return host  # a network, or a port of its own
    return f"{host}:{port}"
