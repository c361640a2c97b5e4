"""Clients pull cold blobs from an upstream that cuts, while its configuration changes, goes and comes back."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.support import images, script
from tests.support.registry import Registry
from tests.support.reloading import Reloading, reloading
from tests.support.rewritten import APP, text, upstream

CLIENTS = 8
BLOBS = 30
SIZE = 200_000


@pytest.mark.parametrize("seed", range(3))
async def test_no_pull_is_cut_by_a_reload(short_tmp: Path, registry: Registry, seed: int) -> None:
    """Each answer is the whole blob, or the 404 of a configuration without the upstream; never half a body, and each
    blob's bytes leave the upstream about once: what was cut goes on by Range, at an endpoint that may be another.
    """
    rng = random.Random(seed)
    blobs = [registry.add_blob("team/app", images.blob(SIZE, seed=seed * BLOBS + n)) for n in range(BLOBS)]
    for blob in blobs[::3]:
        registry.script(blob.digest, script.cut(rng.randrange(1, SIZE)), times=1)
    hub = {"timeouts": {"stall": "20s"}}
    configs = [
        text(registry, hub),
        text(registry, {"timeouts": {"stall": "21s"}}),  # every endpoint is another
        text(registry, hub, rules=[{"name": "own", "upstream": "hub.test/team/*"}]),
        text(registry, upstreams={"other.test": upstream(registry)}),
    ]
    async with reloading(configs[0], short_tmp) as server:
        done = asyncio.Event()
        reloads = asyncio.create_task(_reload(server, configs, rng, done))
        order = [rng.sample(blobs, BLOBS) for _ in range(CLIENTS)]
        answers = await asyncio.gather(*(_pull(server, mine) for mine in order))
        done.set()
        assert await reloads > 3
        assert await server.take(configs[0])
        for blob in blobs:  # whoever was told 404 comes again
            pulling = await server.start(f"{APP}/blobs/{blob.digest}")
            assert await pulling.rest() == blob.data
        await server.rooms.downloads.idle()
    assert {status for statuses in answers for status in statuses} <= {200, 404}
    for blob in blobs:
        assert SIZE <= registry.bytes_for(blob.digest) <= SIZE + 2 * (64 << 10)


async def _pull(server: Reloading, blobs: list[images.Blob]) -> list[int]:
    statuses = []
    for blob in blobs:
        pulling = await server.start(f"{APP}/blobs/{blob.digest}")
        body = await pulling.rest()
        assert pulling.status == 404 or body == blob.data
        statuses.append(pulling.status)
    return statuses


async def _reload(server: Reloading, configs: list[str], rng: random.Random, done: asyncio.Event) -> int:
    count = 0
    while not done.is_set():
        assert await server.take(rng.choice(configs))
        count += 1
    return count
