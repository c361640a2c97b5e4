"""What explain tells of trouble: secrets that cannot be read, silence, open circuits, a disk that takes nothing."""

import errno
import os
from pathlib import Path

import pytest

from proxy.explain import Verdict
from tests.support import script
from tests.support.clock import Clock
from tests.support.explained import BASE, NAME, told
from tests.support.images import manifest
from tests.support.kept import REPOSITORY, Kept, kept
from tests.support.leaks import Canaries
from tests.support.proxy import UPSTREAM, config_text, running
from tests.support.registry import Registry


async def test_credentials_that_cannot_be_read(
    registry: Registry, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable that is missing is named, and so is the set."""
    monkeypatch.delenv("CORP_PASSWORD", raising=False)
    extra = "credentials: {corp: {username: me, password: {env: CORP_PASSWORD}}}\n"
    text = config_text(cache_dir, registry, extra, credentials="corp", allow_insecure_credentials=True)
    async with running(text) as proxy:
        found = await Kept.over(proxy).explain.explain(f"{NAME}:1")
    assert found.route is not None
    assert found.route.credentials == "corp"
    assert "CORP_PASSWORD" in str(found.route.credentials_trouble)
    assert "corp, but environment variable CORP_PASSWORD" in told(found)


async def test_no_secret_is_told(
    registry: Registry, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, canaries: Canaries
) -> None:
    """Credentials are named, never shown, in text and in JSON."""
    monkeypatch.setenv("CORP_PASSWORD", canaries.secret("password"))
    registry.add(REPOSITORY, "1", manifest(BASE))
    extra = "credentials: {corp: {username: me, password: {env: CORP_PASSWORD}}}\n"
    text = config_text(cache_dir, registry, extra, credentials="corp", allow_insecure_credentials=True)
    async with running(text) as proxy:
        found = await Kept.over(proxy).explain.explain(f"{NAME}:1")
    assert "corp" in told(found)
    canaries.assert_absent(told(found), repr(found.as_json()))


async def test_an_upstream_that_says_nothing_is_not_waited_for(registry: Registry, cache_dir: Path) -> None:
    """The answer comes within the bound, and says so."""
    registry.add(REPOSITORY, "1", manifest(BASE))
    gate = registry.hold_headers("1")
    async with kept(cache_dir, registry, ask_within_s=0.05) as rooms:
        found = await rooms.explain.explain(f"{NAME}:1")
        gate.open()
    assert found.verdict is Verdict.FAILS
    assert found.asked is not None
    assert "no answer within 0.05 s" in str(found.asked.error)


async def test_an_open_circuit_is_told(registry: Registry, cache_dir: Path) -> None:
    """The endpoint that is left alone is named with its state, and when to try again."""
    await registry.stop()
    async with kept(cache_dir, registry, breaker={"failures": 1}) as rooms:
        await rooms.explain.explain(f"{NAME}:1")
        found = await rooms.explain.explain(f"{NAME}:1")
    assert found.route is not None
    assert found.route.endpoints[0].circuit == "open"
    assert "its circuit is open" in told(found)
    assert found.problem is not None
    assert (found.problem.failure, "tried again by itself in" in found.problem.advice) == ("left_alone", True)


async def test_since_when_and_until_when_is_told(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """How long an endpoint is left alone and what it did last; how long it asks these credentials for nothing."""
    registry.script("1", script.throttle("90"), methods=("HEAD", "GET"))
    async with kept(cache_dir, registry) as rooms:
        await rooms.explain.explain(f"{NAME}:1")
        throttled = await rooms.explain.explain(f"{NAME}:1")
    assert throttled.route is not None
    assert 60 < (throttled.route.endpoints[0].throttled_for_s or 0) < 120
    assert "asks for no requests for 1 minute more" in told(throttled)
    await registry.stop()
    async with kept(cache_dir, registry, breaker={"failures": 1}) as rooms:
        await rooms.explain.explain(f"{NAME}:1")
        away = await rooms.explain.explain(f"{NAME}:1")
    assert away.route is not None
    [endpoint] = away.route.endpoints
    assert (endpoint.circuit, endpoint.last_error) == ("open", "connect")
    assert endpoint.open_for_s is not None
    assert "left alone for 0 s; tried again in" in told(away)
    assert "0 s ago: upstream" in told(away)


async def test_a_disk_that_takes_nothing_is_told(registry: Registry, cache_dir: Path) -> None:
    """The pull works and is not kept: why, as the disk said it."""
    registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        rooms.proxy.rooms.capacity.refused(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        found = await rooms.explain.explain(f"{NAME}:1")
    assert (found.verdict, found.works) == (Verdict.UPSTREAM, True)
    assert found.not_kept == "the disk refuses: No space left on device"
    assert "only passed on: the disk refuses: No space" in told(found)


async def test_a_rules_one_endpoint_is_the_only_one_told(registry: Registry, cache_dir: Path) -> None:
    """`endpoint:` pins: others of the upstream are not asked, and not shown."""
    endpoints = [{"url": "http://127.0.0.1:9"}, {"url": registry.url}]
    extra = f"rules: [{{name: pinned, upstream: {UPSTREAM}/team/*, endpoint: '{registry.url}'}}]\n"
    async with kept(cache_dir, registry, extra=extra, endpoints=endpoints, plain_http=True) as rooms:
        found = await rooms.explain.explain(f"{NAME}:1")
    assert found.route is not None
    assert [endpoint.url for endpoint in found.route.endpoints] == [registry.url]
    assert "the only one this rule takes" in told(found)
