"""What an upstream lacks: remembered for the rule's own time, and never while the upstream is in trouble."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import script
from tests.support.clock import Clock
from tests.support.images import blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, proxied
from tests.support.registry import Registry

APP = "team/app"
ABSENT = blob(3000, seed=77)
PATHS = {
    "tag": f"{APP}/manifests/absent",
    "manifest": f"{APP}/manifests/{ABSENT.digest}",
    "blob": f"{APP}/blobs/{ABSENT.digest}",
}


@pytest.fixture
async def proxy(cache_dir: Path, registry: Registry, clock: Clock) -> AsyncIterator[Proxy]:
    """A proxy that remembers a 404 for a minute, and leaves an endpoint alone after three failures."""
    registry.add(APP, "1", manifest(blob(2000)))
    extra = "tags: {missing_for: 60s}"
    async with proxied(cache_dir, registry, clock, extra, breaker={"failures": 3}) as running:
        yield running


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
async def test_a_404_is_remembered_for_the_rules_own_time(
    proxy: Proxy, registry: Registry, clock: Clock, path: str, method: str
) -> None:
    """Twenty clients within `missing_for` cost what one costs, for a tag, a manifest and a blob."""
    registry.forget()
    assert (await proxy.ask(path, method=method)).status == 404
    await proxy.quiet()
    once = len(registry.requests)
    for _ in range(20):
        clock.advance(2.9)
        assert (await proxy.ask(path, method=method)).status == 404
    assert len(registry.requests) == once
    clock.advance(3)
    assert (await proxy.ask(path, method=method)).status == 404
    await proxy.quiet()
    assert once < len(registry.requests) <= 2 * once


async def test_no_404_is_told_of_an_upstream_in_trouble(
    cache_dir: Path, registry: Registry, clock: Clock, proxy: Proxy
) -> None:
    """With its circuit open, what it lacked before is not known to be lacking: 503, and the client goes elsewhere."""
    for path in PATHS.values():
        assert (await proxy.ask(path)).status == 404
        await proxy.quiet()
    registry.script("*", script.error(503), methods=("GET", "HEAD"))
    for number in range(3):
        await proxy.ask(f"{APP}/manifests/{number}")
    assert proxy.rooms.upstreams.states(UPSTREAM)[0].circuit == "open"
    for path in PATHS.values():
        assert (await proxy.ask(path)).status == 503
    assert (await proxy.ask("team/app/manifests/never-asked")).status == 503


@pytest.mark.parametrize("status", [400, 401, 403, 405, 413, 429, 500, 503])
async def test_only_a_404_is_remembered_as_missing(proxy: Proxy, registry: Registry, clock: Clock, status: int) -> None:
    """After any other refusal the next honest answer is taken as soon as the upstream may be asked (V10)."""
    registry.script("2", script.error(status), methods=("GET", "HEAD"))
    assert (await proxy.ask(f"{APP}/manifests/2")).status != 200
    registry.heal()
    registry.add(APP, "2", manifest(blob(2001)))
    clock.advance(120 if status == 429 else 1.1)
    assert (await proxy.ask(f"{APP}/manifests/2")).status == 200
