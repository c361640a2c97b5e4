"""A public registry that is not honest, the proxy in front of it, and a bystander."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.events import NotStored
from proxy.journal import Journal
from proxy.upstream.session import UpstreamCall
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.leading import APP, Bystander
from tests.support.proxy import Proxy, config_text, running
from tests.support.registry import Registry
from tests.support.tls import Authority, Names


@pytest.fixture
async def bystander() -> AsyncIterator[Bystander]:
    async with Bystander() as site:
        yield site


@pytest.fixture
async def public(ca: Authority, names: Names) -> AsyncIterator[Registry]:
    """A registry under a public-looking TLS name."""
    names.place("registry.example.com", "127.0.0.1")
    async with Registry(name="registry.example.com", tls=ca.server("registry.example.com")) as site:
        yield site


@pytest.fixture
def image(public: Registry) -> Image:
    return public.add(APP, "1", manifest(blob(200_000)))


@pytest.fixture
def hydrated() -> str:
    """What is fetched without being asked for: nothing, so that each lie is met by one transfer alone."""
    return "none"


@pytest.fixture
async def proxy(
    cache_dir: Path, public: Registry, names: Names, ca: Authority, clock: Clock, short_tmp: Path, hydrated: str
) -> AsyncIterator[Proxy]:
    """A proxy that sends a password, if anybody asks for it in a way it trusts."""
    (short_tmp / "password").write_text("canary-password")
    extra = f"credentials: {{own: {{username: me, password: {{file: {short_tmp / 'password'}}}}}}}"
    extra += f"\nhydrate: {{image: {hydrated}}}"
    text = config_text(
        cache_dir, public.url, extra, credentials="own", proxy="none", tls={"ca": str(ca.path)},
        timeouts={"connect": "1s", "headers": "1s", "stall": "1s"},
    )  # fmt: skip
    async with running(text, clock, names) as started:
        started.hear(NotStored, UpstreamCall)
        Journal(monotonic=clock).listen(started.rooms.events)
        yield started
