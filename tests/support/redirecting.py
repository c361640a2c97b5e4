"""A server that sends its clients to a data address, and what it answers at both."""

from dataclasses import dataclass
from typing import Any, Final

import yaml

from proxy.exchange import Exchange
from tests.support.data import Asking, target_of
from tests.support.images import Blob, Image
from tests.support.registry import Registry
from tests.support.reloading import Reloading

HUB: Final = "hub.test"
APP: Final = f"/v2/{HUB}/team/app"
OVER: Final = 100_000
REDIRECT: Final = {"url": "http://data.example", "over": f"{OVER}B", "clients": ["127.0.0.0/8"]}
BLOBS: Final = {"redirect": REDIRECT, "listen": "127.0.0.1:0"}
NOBODY: Final = {"redirect": REDIRECT | {"clients": ["192.0.2.0/24"]}, "listen": "127.0.0.1:0"}


def text(registry: Registry, **sections: Any) -> str:
    upstream = {"endpoints": [{"url": registry.url}], "plain_http": True, "proxy": "none"}
    beside = {"registry": {"name": "cistern"}, "blobs": BLOBS, "hydrate": {"image": "none"}}
    return yaml.safe_dump({"upstreams": {HUB: upstream}, **beside, **sections})


@dataclass(slots=True)
class Site:
    """A server with a data address, and what its clients were answered."""

    server: Reloading
    registry: Registry
    front: Asking
    data: Asking
    exchanges: list[Exchange]

    async def signed(self, blob: Blob, path: str = APP) -> str:
        """A signed address of a blob, without its host."""
        return target_of(await self.front.ask(f"{path}/blobs/{blob.digest}"))

    async def warm(self, image: Image) -> None:
        """Pull an image's manifest, and its larger blobs by the data address."""
        assert (await self.front.ask(f"{APP}/manifests/1")).status == 200
        for blob in image.layers[:2]:
            assert (await self.data.ask(await self.signed(blob))).body == blob.data
        await self.server.rooms.downloads.idle()


def flipped(target: str) -> str:
    """With the last digit of the signature changed."""
    return target[:-1] + ("0" if target[-1] != "0" else "1")
