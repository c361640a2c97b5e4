"""Debian's containerd, skopeo and podman pull real images through a Cistern process from a real docker-registry.

Every pull is followed by the same three questions: is the image whole in the store, did each blob leave the origin
once, and does a second pull ask the origin for no blob?
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.support.cistern import CisternProcess, assert_image_whole, assert_store_true, stored
from tests.support.clients import Containerd, Mirror, Podman, skopeo_copy, skopeo_holds, write_hosts
from tests.support.faults import FaultProxy
from tests.support.images import Image
from tests.support.origin import Origin, View
from tests.support.raw import RawClient
from tests.support.real import RealImages
from tests.support.routes import lone_address

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real")]
MIB = 1 << 20


def config(**upstreams: str) -> dict[str, object]:
    """A config with these upstreams: name (`_` for `.`) -> URL."""
    return {
        "upstreams": {
            name.replace("_", "."): {"endpoints": [{"url": url}], "plain_http": True, "proxy": "none"}
            for name, url in upstreams.items()
        }
    }


@pytest.fixture
async def cistern(short_tmp: Path, origin: View) -> AsyncIterator[CisternProcess]:
    """A Cistern process in front of the real registry, which it calls real.example."""
    async with CisternProcess(short_tmp / "cistern", config(real_example=origin.url)) as running:
        yield running


def hydrated(digest: str, line: dict[str, Any]) -> bool:
    return bool(line["event"] == "hydration ended" and line["manifest"] == digest)


async def kept(cistern: CisternProcess, *pulled: Image) -> None:
    """Wait until each pulled platform image is hydrated, and re-hash it in the store."""
    for image in pulled:
        await cistern.logged(partial(hydrated, str(image.digest)))
        assert_image_whole(cistern.cache_dir, image)
    assert_store_true(cistern.cache_dir)


def hosts_for(folder: Path, cistern: CisternProcess, *, server: str | None = None) -> Path:
    return write_hosts(folder / "hosts", "_default", [Mirror(cistern.registry_url)], server=server)


@pytest.mark.parametrize("name", ["layered", "docker"])
async def test_ctr_pulls_and_a_fresh_node_pulls_with_the_origin_stopped(
    cistern: CisternProcess, origin: View, real: RealImages, containerd: Containerd, tmp_path: Path, name: str
) -> None:
    """containerd pulls an image of several layers; a fresh node pulls it whole while the origin is down."""
    image: Image = getattr(real, name)
    hosts, reference = hosts_for(tmp_path, cistern), f"real.example/real/{name}:1"
    (await containerd.pull(reference, hosts_dir=hosts)).check()
    await containerd.holds(image)
    await kept(cistern, image)
    await origin.fetched_once(image.all_blobs())
    await origin.forget()
    origin.stop()
    await containerd.fresh()
    (await containerd.pull(reference, hosts_dir=hosts)).check()
    await containerd.holds(image)
    origin.start()
    assert await origin.blob_requests() == []


async def test_ctr_pulls_one_platform_of_an_index(
    cistern: CisternProcess, origin: View, real: RealImages, containerd: Containerd, tmp_path: Path
) -> None:
    """Of an index with two platforms the one that was asked for is pulled, kept and hydrated; then the other too."""
    amd64, arm64 = real.platforms.children
    hosts, reference = hosts_for(tmp_path, cistern), "real.example/real/platforms:1"
    (await containerd.pull(reference, hosts_dir=hosts)).check()
    await kept(cistern, amd64)
    assert [await origin.requests_for(blob.digest) for blob in arm64.blobs if blob not in amd64.blobs] == [0, 0]
    await containerd.fresh()
    (await containerd.pull(reference, hosts_dir=hosts, all_platforms=True)).check()
    await containerd.holds(real.platforms)
    await kept(cistern, arm64)
    assert_image_whole(cistern.cache_dir, real.platforms)
    await origin.fetched_once(real.platforms.all_blobs())
    await origin.forget()
    await containerd.fresh()
    (await containerd.pull(reference, hosts_dir=hosts, all_platforms=True)).check()
    assert await origin.blob_requests() == []


async def test_ctr_pulls_by_digest(
    cistern: CisternProcess, origin: View, real: RealImages, containerd: Containerd, tmp_path: Path
) -> None:
    """An image that has no tag is pulled by its digest."""
    reference = f"real.example/real/digest@{real.by_digest.digest}"
    hosts = hosts_for(tmp_path, cistern)
    (await containerd.pull(reference, hosts_dir=hosts)).check()
    await containerd.holds(real.by_digest)
    await kept(cistern, real.by_digest)
    await origin.fetched_once(real.by_digest.all_blobs())
    await origin.forget()
    await containerd.fresh()
    (await containerd.pull(reference, hosts_dir=hosts)).check()
    assert await origin.requests() == []


async def test_skopeo_copies_by_path(cistern: CisternProcess, origin: View, real: RealImages, tmp_path: Path) -> None:
    """skopeo copies by the upstream's name as path prefix; the second copy, origin stopped, is the same."""
    reference = f"{cistern.netloc}/real.example/real/layered:1"
    (await skopeo_copy(reference, tmp_path / "first")).check()
    skopeo_holds(tmp_path / "first", real.layered)
    await kept(cistern, real.layered)
    await origin.fetched_once(real.layered.all_blobs())
    origin.stop()
    (await skopeo_copy(reference, tmp_path / "second")).check()
    skopeo_holds(tmp_path / "second", real.layered)


async def test_podman_pulls_through_its_mirror(
    cistern: CisternProcess, origin: View, real: RealImages, podman: Podman
) -> None:
    """podman pulls by its registries.conf; a second pull asks the origin for no blob."""
    podman.mirrors({"real.example": [f"{cistern.netloc}/real.example"]})
    (await podman.pull("real.example/real/docker:1")).check()
    await kept(cistern, real.docker)
    await origin.fetched_once(real.docker.all_blobs())
    await origin.forget()
    await podman.remove()
    podman.mirrors({"real.example": [f"{cistern.netloc}/real.example"]})
    (await podman.pull("real.example/real/docker:1")).check()
    assert await origin.blob_requests() == []


async def test_one_default_entry_serves_two_upstreams_by_ns(
    short_tmp: Path, origin: View, real: RealImages, containerd: Containerd, tmp_path: Path
) -> None:
    """One `_default` hosts.toml mirrors every registry: two origins, told apart by `ns`, one Cistern."""
    other = Origin(tmp_path / "other")
    other.add("side/app", "1", real.by_digest)
    other.start()
    try:
        upstreams = config(real_example=origin.url, side_example=other.url)
        async with CisternProcess(short_tmp / "cistern", upstreams) as cistern:
            hosts = hosts_for(tmp_path, cistern)
            (await containerd.pull("real.example/real/docker:1", hosts_dir=hosts)).check()
            (await containerd.pull("side.example/side/app:1", hosts_dir=hosts)).check()
            await containerd.holds(real.docker)
            await containerd.holds(real.by_digest)
            await kept(cistern, real.docker, real.by_digest)
            assert await origin.requests(lambda access: "side/" in access.path or "ns=" in access.query) == []
    finally:
        other.stop()


async def test_killed_in_mid_pull_it_goes_on_where_it_was(
    short_tmp: Path, origin: View, real: RealImages, containerd: Containerd, tmp_path: Path
) -> None:
    """SIGKILL in mid-pull: nothing partial is visible, the next process fetches at most 8 MiB again, the pull ends."""
    image = real.layered
    total = sum(blob.size for blob in image.all_blobs())
    host, _, port = origin.address.rpartition(":")
    async with FaultProxy(host, int(port)) as road:
        road.down.bytes_per_s = 60 * MIB
        async with CisternProcess(short_tmp / "cistern", config(real_example=road.url)) as cistern:
            hosts, reference = hosts_for(tmp_path, cistern), "real.example/real/layered:1"
            pulling = asyncio.ensure_future(containerd.pull(reference, hosts_dir=hosts))
            await road.carried(road.down, total // 3)
            road.stall()  # from here on the pull can neither end nor fail by itself
            await road.taken()  # of a machine that is busy, megabytes more would stand in the sockets of each layer
            await cistern.kill()
            assert (await pulling).code != 0
            assert_store_true(cistern.cache_dir)
            assert real.layered.layers[0].digest not in stored(cistern.cache_dir)
            road.flow()
            road.down.bytes_per_s = None
            await cistern.start()
            (await containerd.pull(reference, hosts_dir=hosts)).check()
            await containerd.holds(image)
            await kept(cistern, image)
            await origin.forget()
            await containerd.fresh()
            (await containerd.pull(reference, hosts_dir=hosts)).check()
            assert await origin.blob_requests() == []
        assert total <= road.down.carried_bytes <= total + 8 * MIB


async def fallback(
    mirror: str,
    origin: View,
    real: RealImages,
    node: Containerd,
    folder: Path,
    *,
    gone: Callable[[], Awaitable[object]],
) -> float:
    """Pull directly, then after `gone`, with `mirror` before the origin: the seconds that the second pull took more."""
    reference = f"real.example/real/digest@{real.by_digest.digest}"
    direct = write_hosts(folder / "direct", "_default", [Mirror(origin.url)])
    alone = (await node.pull(reference, hosts_dir=direct)).check()
    await node.fresh()
    await gone()
    await origin.forget()
    mirrored = write_hosts(folder / "mirrored", "_default", [Mirror(mirror, dial_timeout="500ms")], server=origin.url)
    behind = (await node.pull(reference, hosts_dir=mirrored)).check()
    await node.holds(real.by_digest)
    await origin.fetched_once(real.by_digest.all_blobs())
    return behind.seconds - alone.seconds


async def test_with_cistern_stopped_ctr_goes_to_the_origin(
    cistern: CisternProcess, origin: View, real: RealImages, containerd: Containerd, tmp_path: Path
) -> None:
    """A node whose mirror is gone pulls from the origin itself, and loses less than two seconds by trying."""
    added_s = await fallback(cistern.registry_url, origin, real, containerd, tmp_path, gone=cistern.terminate)
    assert added_s < 2.0


async def test_with_cistern_black_holed_ctr_goes_to_the_origin(
    short_tmp: Path, origin: View, real: RealImages, containerd: Containerd, tmp_path: Path
) -> None:
    """Cistern runs, and its address is a black hole: the node loses less than two seconds (see `support.routes`)."""
    async with lone_address() as address:
        config_of_one, listen = config(real_example=origin.url), ["--listen", f"{address.text}:0"]
        async with CisternProcess(short_tmp / "cistern", config_of_one, args=listen) as cistern:
            assert address.text in cistern.registry_url
            assert (await RawClient(cistern.netloc).ask("GET", "/v2/")).status == 200
            added_s = await fallback(
                cistern.registry_url, origin, real, containerd, tmp_path, gone=address.become_a_black_hole
            )
            assert added_s < 2.0
            assert [line for line in cistern.log_lines() if line.get("reference")] == []
