"""Debian's containerd and skopeo pull real images through a server of two serving processes from docker-registry."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.journeys.test_real_pulls import config, hosts_for, kept
from tests.support.cistern import CisternProcess
from tests.support.clients import Containerd, skopeo_copy, skopeo_holds
from tests.support.origin import View
from tests.support.real import RealImages

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]


@pytest.fixture
async def cistern(short_tmp: Path, origin: View) -> AsyncIterator[CisternProcess]:
    """Two serving processes in front of the real registry, which they call real.example."""
    several = {**config(real_example=origin.url), "registry": {"workers": 2}}
    async with CisternProcess(short_tmp / "cistern", several) as running:
        yield running


async def test_two_clients_at_once_and_again_without_the_origin(
    cistern: CisternProcess, origin: View, real: RealImages, containerd: Containerd, tmp_path: Path
) -> None:
    """ctr and skopeo pull the same cold image together: each has it whole, each blob left the origin once, and fresh
    ones pull it while the origin is down.
    """
    image, hosts = real.layered, hosts_for(tmp_path, cistern)
    by_name, by_path = "real.example/real/layered:1", f"{cistern.netloc}/real.example/real/layered:1"
    for outcome in await asyncio.gather(
        containerd.pull(by_name, hosts_dir=hosts), skopeo_copy(by_path, tmp_path / "first")
    ):
        outcome.check()
    await containerd.holds(image)
    skopeo_holds(tmp_path / "first", image)
    await kept(cistern, image)
    await origin.fetched_once(image.all_blobs())
    origin.stop()
    await containerd.fresh()
    for outcome in await asyncio.gather(
        containerd.pull(by_name, hosts_dir=hosts), skopeo_copy(by_path, tmp_path / "second")
    ):
        outcome.check()
    await containerd.holds(image)
    skopeo_holds(tmp_path / "second", image)
    origin.start()
