"""Every text that names an upstream: its name and aliases, with and without a default port. Pure."""

from collections.abc import Iterator, Mapping

from proxy.config.models import UpstreamConfig


def spellings(name: str, upstream: UpstreamConfig) -> Iterator[str]:
    """`name` as clients may write it: `:443` is nothing, and neither is `:80` where http is spoken."""
    yield name
    bare = name.rpartition("]")[2]  # an IPv6 literal has colons of its own
    if ":" not in bare:
        yield f"{name}:443"
        if upstream.plain_http:
            yield f"{name}:80"
    elif upstream.plain_http and bare.endswith(":80"):
        yield name.removesuffix(":80")


def upstream_names(upstreams: Mapping[str, UpstreamConfig]) -> dict[str, str]:
    """Each spelling of a name or alias -> the upstream's name. A name goes before another one's alias."""
    names: dict[str, str] = {}
    for name, upstream in upstreams.items():
        names |= dict.fromkeys(spellings(name, upstream), name)
    for name, upstream in upstreams.items():
        for alias in upstream.aliases:
            for spelling in spellings(alias, upstream):
                names.setdefault(spelling, name)
    return names
