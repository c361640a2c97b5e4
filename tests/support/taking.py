"""An upstream room that takes another configuration."""

from proxy.config import Config
from proxy.upstream.client import Clients


def take(upstreams: Clients, settings: Config) -> None:
    upstreams.take(upstreams.plan(settings))
