"""A disk that answers nothing: every disk thread hangs, and neither event loop nor admin address waits for it."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from proxy.store.threads import DISK_THREADS
from proxy.tasks import Tasks
from tests.support.edge import Serving, serving
from tests.support.images import Image, blob, manifest
from tests.support.registry import Registry
from tests.support.waiting import turns

HUB, APP = "hub.test", "team/app"


@pytest.fixture
async def server(cache_dir: Path, registry: Registry) -> AsyncIterator[Serving]:
    hub = {"endpoints": [{"url": registry.url}], "plain_http": True, "proxy": "none"}
    async with serving(f"upstreams: {json.dumps({HUB: hub})}\nhydrate: {{image: none}}", cache_dir) as running:
        yield running


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add(APP, "1", manifest(blob(100_000), blob(500, seed=1)))


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()  # whatever fails: the threads end


async def hang(server: Serving, gate: threading.Event, tasks: Tasks) -> None:
    """Hold every disk thread until the gate opens."""
    for _ in range(DISK_THREADS):
        tasks.start(server.rooms.disk.threads.disk(gate.wait), name="hung")
    await turns()


async def test_the_admin_address_answers_while_the_disk_hangs(
    server: Serving, image: Image, gate: threading.Event
) -> None:
    """Probes, health, metrics and what is known in memory are answered; what is held comes with the disk (F34)."""
    path = f"/v2/{HUB}/{APP}"
    assert await server.pull(f"{path}/manifests/1") == 200
    for part in image.blobs:
        assert await server.pull(f"{path}/blobs/{part.digest}") == 200
    await server.rooms.downloads.idle()
    async with Tasks() as tasks:
        await hang(server, gate, tasks)
        async with asyncio.timeout(30):
            for probe in ("/livez", "/readyz", "/health", "/metrics", "/api/v1/rules", "/api/v1/upstreams"):
                assert (await server.ask(probe)).status == 200, probe
            assert await server.pull(f"{path}/manifests/1") == 200
            assert await server.pull(f"{path}/manifests/{image.digest}") == 200
        waiting = tasks.start(server.pull(f"{path}/blobs/{image.layers[0].digest}"), name="waiting")
        gate.set()
        assert await waiting == 200
