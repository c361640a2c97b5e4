"""The rooms that look at what is kept, over a proxy in this process; and a client that pulls whole images."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.config import parse
from proxy.edge import explain_of
from proxy.evict import Evict
from proxy.explain import Explain
from proxy.holdings import Holdings
from proxy.images import Images, ImageView
from proxy.oci import Digest
from proxy.rules import Rules
from tests.support.images import Image
from tests.support.proxy import UPSTREAM, Proxy, config_text, running
from tests.support.site import Site

REPOSITORY = "team/app"


@dataclass(slots=True)
class Kept:
    """A proxy with one upstream, `origin.test`, and the rooms over it."""

    proxy: Proxy
    holdings: Holdings
    images: Images
    evict: Evict
    explain: Explain

    @classmethod
    def over(cls, proxy: Proxy, *, ask_within_s: float = 5.0) -> "Kept":
        rooms = proxy.rooms
        ground = rooms.ground
        holdings = rooms.holdings
        return cls(
            proxy,
            holdings,
            Images(ground, holdings, lambda: rooms.rules, rooms.capacity),
            rooms.evict,
            explain_of(rooms, ask_within_s=ask_within_s),
        )

    def take_rules(self, text: str) -> None:
        """Take other rules, as a reload does; the upstreams stay."""
        config = parse(text, "other.yaml", {})
        self.proxy.rooms.current.take(config, Rules(config))

    async def pull(self, image: Image, tag: str | None = "1", repository: str = REPOSITORY, prefix: str = "") -> None:
        """Pull an image as a client does that wants all its platforms, and wait until all of it is kept."""
        path = f"{prefix or f'/v2/{UPSTREAM}/'}{repository}"
        manifests = [tag or str(image.digest), *(str(found.digest) for found in image.all_manifests()[1:])]
        for target in manifests:
            assert (await self.proxy.ask(f"{path}/manifests/{target}")).status == 200
        for blob in image.all_blobs():
            assert (await self.proxy.ask(f"{path}/blobs/{blob.digest}")).status == 200
        await self.proxy.quiet()

    async def only(self, reference: str | None = None) -> ImageView:
        """The one image that is listed."""
        [view] = await self.images.listing(reference)
        return view

    def has(self, digest: Digest) -> bool:
        return self.proxy.stored(digest) is not None


@asynccontextmanager
async def kept(
    cache: Path,
    upstream: Site | str,
    clock: Callable[[], float] = time.time,
    extra: str = "hydrate: {image: none}\n",
    ask_within_s: float = 5.0,
    **upstream_keys: object,
) -> AsyncIterator[Kept]:
    """The rooms over a proxy that hydrates nothing, unless `extra` says otherwise."""
    async with running(config_text(cache, upstream, extra, **upstream_keys), clock) as proxy:
        yield Kept.over(proxy, ask_within_s=ask_within_s)
