"""A lost index is rebuilt from the store while clients are served."""

from pathlib import Path

from proxy.reindex import reindex
from proxy.rules import Place
from tests.support.clock import Clock
from tests.support.damage import lose_index
from tests.support.images import blob, manifest
from tests.support.proxy import UPSTREAM, proxied
from tests.support.registry import Registry

APP = "team/app"


async def test_a_lost_index_is_rebuilt_while_serving(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """With index.sqlite deleted and the upstream stopped a held image pulls, and sizes and children are known again."""
    image = registry.add(APP, "1", manifest(blob(200_000), blob(1000, seed=1)))
    place = Place(UPSTREAM, APP)
    async with proxied(cache_dir, registry, clock) as proxy:
        await proxy.ask(f"{APP}/manifests/1")
        for part in image.blobs:
            await proxy.pull(part)
        await proxy.quiet()
    lose_index(cache_dir)
    await registry.stop()
    async with proxied(cache_dir, registry.url, clock) as proxy:
        assert (await proxy.ask(f"{APP}/manifests/1")).body == image.manifest.data
        for part in image.blobs:
            assert (await proxy.pull(part)).body == part.data
        assert await reindex(proxy.rooms.ground, proxy.rooms.manifests) == 1  # once more, waited for
        index = proxy.rooms.disk.index
        known = await index.children_of(place, image.digest)
        assert known is not None
        assert [child for child, _, _ in known] == [p.digest for p in image.blobs]
        assert await index.size_of(place, image.layers[0].digest) == 200_000
