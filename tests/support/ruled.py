"""Rules over two upstreams, and where they lead."""

from proxy.config import parse
from proxy.rules import Route, Rules

HUB = """
upstreams:
  docker.io:
    endpoints: [{url: https://registry-1.docker.io}, {url: https://mirror.example}]
    aliases: [index.docker.io, registry-1.docker.io, hub]
    official_prefix: library
    credentials: hub
  quay.io: {}
  lab: {endpoints: [{url: 'http://lab.example'}], plain_http: true}
credentials:
  hub: {username: u, password: {env: A}}
  team: {username: u, password: {env: B}}
"""


def rules_of(text: str, base: str = HUB) -> Rules:
    return Rules(parse(base + text))


def source_of(route: Route) -> str:
    return f"{route.source.upstream}/{route.source.repository}"
