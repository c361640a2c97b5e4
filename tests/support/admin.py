"""A server with an admin address that has a token, in front of one upstream."""

import json

from tests.support.edge import Serving
from tests.support.images import Image
from tests.support.registry import Registry

HUB = "hub.test"
TOKEN = "a-token-of-the-test"


def config(registry: Registry, extra: str = "") -> str:
    upstream = {
        "endpoints": [{"url": registry.url}],
        "plain_http": True,
        "proxy": "none",
        "timeouts": {"connect": "1s", "headers": "1s", "stall": "1s"},
    }
    return f"upstreams: {json.dumps({HUB: upstream})}\n{extra}"


async def pulled(server: Serving, image: Image) -> None:
    """Pull an image's manifest and blobs; return once its hydration has ended too."""
    assert await server.pull(f"/v2/{HUB}/team/app/manifests/1") == 200
    for part in image.blobs:
        assert await server.pull(f"/v2/{HUB}/team/app/blobs/{part.digest}") == 200
    await server.rooms.hydrate.finished()  # no event would tell: an image that is whole already makes no job
    await server.rooms.downloads.idle()
