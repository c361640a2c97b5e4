"""Many reloads at once, and beside many requests: the last file counts, no request is dropped, no rules are left."""

import asyncio
import gc
import threading
import weakref
from typing import Any

import pytest

from proxy.events import ConfigTaken
from tests.support.images import Image
from tests.support.registry import Registry
from tests.support.reloading import Reloading
from tests.support.rewritten import APP, CLIENTS, HUB, text


async def test_two_reloads_at_once_end_with_the_last_file(
    server: Reloading, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What asks while one runs asks for exactly one more; never two beside each other."""
    reading, go_on, loads = threading.Event(), threading.Event(), list[float]()
    source = server.reload._source
    load = source.load

    def slow() -> Any:
        loaded = load()
        loads.append(loaded.tags.fresh_for_s)
        reading.set()
        assert go_on.wait(20)
        return loaded

    monkeypatch.setattr(source, "load", slow)
    running = asyncio.create_task(server.reload.run())
    server.write(text(registry, tags={"fresh_for": "1s"}))
    server.asked.set()
    await asyncio.to_thread(reading.wait, 20)
    for seconds in (2, 3):
        server.write(text(registry, tags={"fresh_for": f"{seconds}s"}))
        server.asked.set()
    taken = asyncio.Event()
    server.rooms.events.listen(ConfigTaken, lambda _event: taken.set())
    go_on.set()
    while server.rooms.config.tags.fresh_for_s != 3.0:
        taken.clear()
        await taken.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert loads == [1.0, 3.0]


async def test_requests_during_reloads_are_never_dropped(server: Reloading, registry: Registry, image: Image) -> None:
    """Eight clients pull again and again while two configurations and a bad one take turns: each answer is of a good
    one, whole.
    """
    assert await server.pull(f"{APP}/manifests/1") == 200
    open_, closed = text(registry), text(registry, rules=[{"name": "no", "upstream": f"{HUB}/*", "deny": True}])
    done = asyncio.Event()

    async def client() -> set[int]:
        statuses = set()
        while not done.is_set():
            statuses.add(await server.pull(f"{APP}/manifests/1"))
        return statuses

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    for _ in range(8):
        for configuration, is_good in ((closed, True), ("nonsense: 1", False), (open_, True)):
            assert await server.take(configuration) is is_good
    done.set()
    assert set().union(*await asyncio.gather(*clients)) <= {200, 403}
    assert await server.pull(f"{APP}/manifests/1") == 200


async def test_the_old_rules_leave_memory(server: Reloading, registry: Registry, image: Image) -> None:
    """Once somebody has asked by the new ones: what was remembered of earlier requests holds none of them."""
    blobs = [f"{APP}/blobs/{part.digest}" for part in image.blobs]
    targets = [f"{APP}/manifests/1", f"{APP}/manifests/{image.digest}", *blobs]
    old = []
    for seconds in range(1, 5):
        for target in targets * 2:
            assert await server.pull(target) == 200
        await server.rooms.downloads.idle()
        old.append(weakref.ref(server.rooms.current.rules))
        assert await server.take(text(registry, tags={"fresh_for": f"{seconds}s"}))
    assert await server.pull(targets[0]) == 200
    gc.collect()
    assert [rules() for rules in old] == [None] * 4
