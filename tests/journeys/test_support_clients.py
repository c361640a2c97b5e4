"""The real clients pull the real images from the real registry, with nothing of Cistern between: the ground truth."""

from pathlib import Path

import pytest

from tests.support import images
from tests.support.cistern import assert_image_whole
from tests.support.clients import (
    Containerd,
    Mirror,
    Podman,
    skopeo_copy,
    skopeo_holds,
    write_hosts,
    write_registries,
)
from tests.support.origin import Origin, View
from tests.support.real import RealImages
from tests.support.registry import Registry

pytestmark = pytest.mark.real


async def test_ctr_pulls_every_real_image(
    origin: View, containerd: Containerd, real: RealImages, tmp_path: Path
) -> None:
    """By tag, by digest, all platforms of an index: each blob leaves the origin once and is whole in the node."""
    assert real.total_bytes() >= 150_000_000
    assert len(real.layered.layers) >= 4
    hosts = write_hosts(tmp_path, "_default", [Mirror(origin.url)])
    everything = {
        "layered:1": real.layered,
        "platforms:1": real.platforms,
        "docker:1": real.docker,
        f"digest@{real.by_digest.digest}": real.by_digest,
    }
    for name, image in everything.items():
        (await containerd.pull(f"hub.example/real/{name}", hosts_dir=hosts, all_platforms=True)).check()
        await containerd.holds(image)
    assert set((await containerd.images()).values()) == {str(image.digest) for image in everything.values()}
    assert len(await containerd.content()) == len(
        {b.digest for i in real.all() for b in (*i.all_manifests(), *i.all_blobs())}
    )
    await origin.fetched_once({blob.digest: blob for image in real.all() for blob in image.all_blobs()}.values())
    assert {access.query for access in await origin.blob_requests()} == {"ns=hub.example"}


async def test_a_fresh_containerd_knows_nothing(
    origin: View, containerd: Containerd, real: RealImages, tmp_path: Path
) -> None:
    """After `fresh` the same pull fetches everything again."""
    hosts = write_hosts(tmp_path, "_default", [Mirror(origin.url)])
    for _ in range(2):
        await origin.forget()
        name = f"hub.example/real/digest@{real.by_digest.digest}"
        (await containerd.pull(name, hosts_dir=hosts)).check()
        await origin.fetched_once(real.by_digest.blobs)
        await containerd.fresh()
    assert await containerd.images() == {}


async def test_skopeo_copies_through_a_mirror(origin: View, real: RealImages, tmp_path: Path) -> None:
    """Directly, and by a registries.conf that names the origin as the mirror of another host."""
    (await skopeo_copy(f"{origin.address}/real/docker:1", tmp_path / "direct")).check()
    skopeo_holds(tmp_path / "direct", real.docker)
    conf = write_registries(tmp_path / "registries.conf", {"hub.example": [origin.address]})
    (await skopeo_copy("hub.example/real/docker:1", tmp_path / "mirrored", registries=conf)).check()
    skopeo_holds(tmp_path / "mirrored", real.docker)
    assert await origin.requests_for(real.docker.layers[0].digest) == 2


async def test_podman_pulls_into_vfs(origin: View, podman: Podman, real: RealImages) -> None:
    """A podman with a storage of its own has the image under its name, with its digest."""
    podman.mirrors({"hub.example": [origin.address]})
    (await podman.pull("hub.example/real/docker:1")).check()
    assert await podman.images() == {"hub.example/real/docker:1": str(real.docker.digest)}


async def test_the_origin_comes_back_where_it_was(origin: View, real: RealImages, tmp_path: Path) -> None:
    """Stopped, a pull fails; started again, it succeeds at the same address."""
    origin.stop()
    assert not (await skopeo_copy(f"{origin.address}/real/docker:1", tmp_path / "gone")).succeeded
    origin.start()
    (await skopeo_copy(f"{origin.address}/real/docker:1", tmp_path / "back")).check()


async def test_the_origin_can_ask_for_a_password(tmp_path: Path) -> None:
    """With users it answers 401 to strangers and the image to who knows the password."""
    private = Origin(tmp_path / "private", users={"robot": "s3cret"})
    private.add("team/app", "1", images.manifest())
    await private.set_passwords()
    private.start()
    try:
        refused = await skopeo_copy(f"{private.address}/team/app:1", tmp_path / "refused")
        assert "unauthorized" in refused.output or "authentication required" in refused.output
        let_in = await skopeo_copy(f"{private.address}/team/app:1", tmp_path / "in", credentials="robot:s3cret")
        assert let_in.check().succeeded
    finally:
        private.stop()


async def test_real_clients_pull_small_images_from_the_scripted_registry(
    registry: Registry, containerd: Containerd, tmp_path: Path
) -> None:
    """The small images are valid down to their diff_ids: ctr unpacks them, skopeo accepts them."""
    hosts = write_hosts(tmp_path, "_default", [Mirror(registry.url)])
    for tag, image in {
        "oci": images.manifest(),
        "docker": images.manifest(docker=True),
        "many": images.index(),
    }.items():
        registry.add("team/app", tag, image)
        (await containerd.pull(f"hub.example/team/app:{tag}", hosts_dir=hosts)).check()
        (await skopeo_copy(f"{registry.netloc}/team/app:{tag}", tmp_path / tag)).check()
    # Twice skopeo, once containerd: the second image shares its layer.
    assert registry.requests_for(images.manifest().layers[0].digest) == 3


def test_an_image_that_is_not_whole_is_seen(tmp_path: Path) -> None:
    """A missing file, or one with a wrong byte, fails the check of a store."""
    image = images.manifest()
    for blob in (image.manifest, *image.blobs):
        path = tmp_path / "blobs/sha256" / blob.digest.encoded[:2] / blob.digest.encoded
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob.data)
    assert_image_whole(tmp_path, image)
    path.write_bytes(b"other")
    with pytest.raises(AssertionError, match="not sha256:"):
        assert_image_whole(tmp_path, image)
    path.unlink()
    with pytest.raises(AssertionError, match="is missing"):
        assert_image_whole(tmp_path, image)
