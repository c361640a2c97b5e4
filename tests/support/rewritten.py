"""A configuration that is written anew while pulls run, and the upstream that it names."""

from typing import Any

import yaml

from tests.support.registry import Registry
from tests.support.reloading import Reloading

HUB = "hub.test"
APP = f"/v2/{HUB}/team/app"
SIZE = 300_000
CLIENTS = 8


def upstream(registry: Registry, **keys: Any) -> dict[str, Any]:
    return {
        "endpoints": [{"url": registry.url}],
        "plain_http": True,
        "allow_insecure_credentials": True,
        "proxy": "none",
        **keys,
    }


def text(registry: Registry, hub: dict[str, Any] | None = None, /, **sections: Any) -> str:
    """A configuration with one upstream, `hub.test`; `sections` come beside it, or in its place."""
    return yaml.safe_dump({"upstreams": {HUB: upstream(registry, **(hub or {}))}, **sections})


async def health(server: Reloading) -> Any:
    return (await server.ask("/health")).json
