"""Fixtures for every test: a clock, registries honest and scripted, real clients; and one leak check, on for all."""

import gc
import inspect
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.clients import Containerd, Podman
from tests.support.clock import Clock
from tests.support.leaks import Canaries, Leaks, check_loop
from tests.support.origin import Origin, View, scratch
from tests.support.proxy import Proxy, proxied
from tests.support.real import RealImages, real_images
from tests.support.registry import Registry
from tests.support.tls import Authority, Names


def pytest_collection_finish() -> None:
    """What collection imported stays: the leak check's garbage collections need not walk through it again.

    Nor through what earlier tests left: during a test nothing gets older than the second generation, so that the check
    at its end finds all that the test made, and only that.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 1 << 30, 1 << 30)


@pytest.fixture(scope="module", autouse=True)
def _thorough() -> Iterator[None]:
    """After each file all is looked at, also what outlived its test and was dropped later."""
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leaks(request: pytest.FixtureRequest) -> Iterator[Leaks]:
    """After each test: no task, no client session, no child process, no part file is left."""
    ledger = Leaks()
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        # Asked for here, it is built before all other fixtures and therefore checked after them.
        request.getfixturevalue("_quiet_loop")
    yield ledger
    ledger.check()


@pytest.fixture
async def _quiet_loop() -> AsyncIterator[None]:
    yield
    await check_loop()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until the test turns it."""
    return Clock()


@pytest.fixture
def canaries() -> Canaries:
    """Secrets to plant, and to look for afterwards."""
    return Canaries()


@pytest.fixture
def names() -> Names:
    """The host names of this test; any other is refused."""
    return Names()


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory whose name leaves room for the names of Unix sockets."""
    path = scratch()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def cache_dir(short_tmp: Path, leaks: Leaks) -> Path:
    """A cache directory; no part file may be left in it."""
    return leaks.watch(short_tmp / "cache")


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that only tests trust."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
async def registry() -> AsyncIterator[Registry]:
    """A scripted registry, empty and honest until told otherwise."""
    async with Registry() as started:
        yield started


@pytest.fixture
async def proxy(cache_dir: Path, registry: Registry, clock: Clock) -> AsyncIterator[Proxy]:
    """A proxy in this process, in front of `registry`; the test turns its clock."""
    async with proxied(cache_dir, registry, clock) as running:
        yield running


# Real parts


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> RealImages:
    """Images made from this machine's files, built once for all workers of a run."""
    base = tmp_path_factory.getbasetemp()
    return real_images((base.parent if base.name.startswith("popen-") else base) / "real-images")


@pytest.fixture(scope="session")
def running_origin(tmp_path_factory: pytest.TempPathFactory, real: RealImages) -> Iterator[Origin]:
    """The session's docker-registry, filled with the real images."""
    started = Origin(tmp_path_factory.mktemp("origin"))
    fill(started, real)
    started.start()
    yield started
    started.stop()


def fill(origin: Origin, real: RealImages) -> None:
    """Put the real images into an origin: real/layered:1, real/platforms:1, real/docker:1, and real/digest untagged."""
    origin.add("real/layered", "1", real.layered)
    origin.add("real/platforms", "1", real.platforms)
    origin.add("real/docker", "1", real.docker)
    origin.add("real/digest", None, real.by_digest)


@pytest.fixture
def origin(running_origin: Origin, leaks: Leaks) -> Iterator[View]:
    """The real registry, running, with this test's view of its access log; a test that stops it need not start it."""
    if running_origin.pid is None:
        running_origin.start()
    view = View(running_origin)
    yield view
    if running_origin.pid is None:
        running_origin.start()
    leaks.lasting(running_origin.pid)


@pytest.fixture
async def containerd(short_tmp: Path) -> AsyncIterator[Containerd]:
    """A running containerd that has pulled nothing yet."""
    node = Containerd(short_tmp / "ctr")
    await node.start()
    yield node
    await node.stop()


@pytest.fixture
async def podman(short_tmp: Path) -> AsyncIterator[Podman]:
    """A podman whose storage is empty."""
    user = Podman(short_tmp / "pod")
    yield user
    await user.remove()
