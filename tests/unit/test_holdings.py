"""What places hold, read from links and manifests."""

from pathlib import Path

import pytest

from proxy.errors import NameUnknown
from proxy.oci import OCI_INDEX, Digest
from proxy.reference import parse
from proxy.rules import Place
from proxy.store.base import Link
from tests.support.damage import silently
from tests.support.images import index, layer, manifest
from tests.support.kept import REPOSITORY, kept
from tests.support.proxy import UPSTREAM
from tests.support.registry import Registry

PLACE = Place(UPSTREAM, REPOSITORY)


async def test_an_index_reaches_all_below_it(registry: Registry, cache_dir: Path) -> None:
    """Manifests, configs and layers, with their sizes; platforms as `os/architecture`."""
    image = registry.add(REPOSITORY, "1", index())
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        [held] = await rooms.holdings.images_of(PLACE)
        everything = (*image.all_manifests(), *image.all_blobs())
        assert held.reach() == {found.digest: found.size for found in everything}
        assert [part.platform for part in held.parts] == ["linux/amd64", "linux/arm64"]
        assert (held.is_index, held.media_type, list(held.tags)) == (True, OCI_INDEX, ["1"])


async def test_foreign_layers_are_not_asked_for(registry: Registry, cache_dir: Path) -> None:
    """What no registry serves does not make an image incomplete."""
    foreign = layer({"windows": b"w"}, media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
    own = layer({"own": b"o"})
    image = registry.add(REPOSITORY, "1", manifest(own, foreign))
    async with kept(cache_dir, registry) as rooms:
        for target in (f"manifests/{image.digest}", f"blobs/{image.blobs[0].digest}", f"blobs/{own.digest}"):
            await rooms.proxy.ask(f"{REPOSITORY}/{target}")
        await rooms.proxy.quiet()
        [held] = await rooms.holdings.images_of(PLACE)
        assert foreign.digest not in held.reach()
        assert (await rooms.only()).complete


async def test_one_manifest_is_found_whoever_names_it(registry: Registry, cache_dir: Path) -> None:
    """Part of an index, by its digest; a blob or a stranger is no image."""
    image = registry.add(REPOSITORY, "1", index())
    child = image.children[0]
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        found = await rooms.holdings.image(PLACE, child.digest)
        assert found is not None
        assert set(found.reach()) == {child.digest, *(blob.digest for blob in child.blobs)}
        assert await rooms.holdings.image(PLACE, child.blobs[0].digest) is None
        assert await rooms.holdings.image(PLACE, Digest.of(b"nothing")) is None
        assert await rooms.holdings.image(Place(UPSTREAM, "team/other"), child.digest) is None


async def test_a_manifest_that_cannot_be_read_is_held_without_children(registry: Registry, cache_dir: Path) -> None:
    """Neither a damaged body nor a disk that refuses ends a look at all the others."""
    whole = registry.add(REPOSITORY, "1", manifest(layer({"whole": b"w"})))
    nonsense, blocked = b'{"schemaVersion": 2, "manifests": 7}', Digest.of(b"a folder stands in its place")
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(whole)
        disk = rooms.proxy.rooms.disk
        await disk.blobs.put(nonsense, Digest.of(nonsense))
        disk.blobs.path_of(blocked).mkdir(parents=True)
        await disk.records.save_links(
            [Link(PLACE, Digest.of(nonsense), OCI_INDEX, len(nonsense)), Link(PLACE, blocked, OCI_INDEX, 1)]
        )
        found = {image.digest: image for image in await rooms.holdings.images_of(PLACE)}
    assert set(found) == {whole.digest, Digest.of(nonsense), blocked}
    assert set(found[Digest.of(nonsense)].reach()) == {Digest.of(nonsense)}
    assert found[blocked].manifests == {}


async def test_sizes_are_those_of_the_store(registry: Registry, cache_dir: Path) -> None:
    """Of everything, or of what is asked for; what is not stored has none."""
    image = registry.add(REPOSITORY, "1", manifest())
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        everything = {found.digest: found.size for found in (image.manifest, *image.blobs)}
        assert await rooms.holdings.sizes() == everything
        assert await rooms.holdings.sizes([image.digest, Digest.of(b"nothing")]) == {image.digest: image.manifest.size}


async def test_a_name_leads_where_a_pull_of_it_would(registry: Registry, cache_dir: Path) -> None:
    """Also in the form with `ns`; a name that leads nowhere and is not here is unknown."""
    async with kept(cache_dir, registry) as rooms:
        rules = rooms.proxy.rooms.rules
        assert await rooms.holdings.places_named(rules, parse(f"{UPSTREAM}/{REPOSITORY}")) == [PLACE]
        assert await rooms.holdings.places_named(rules, parse(f"{UPSTREAM}:443/{REPOSITORY}")) == [PLACE]
        with pytest.raises(NameUnknown):
            await rooms.holdings.places_named(rules, parse("elsewhere.test/app"))


async def test_a_manifest_that_rotted_is_not_believed(registry: Registry, cache_dir: Path) -> None:
    """Its bytes changed and nothing else did: it is set aside, and its layers count as the index remembers them."""
    image = registry.add(REPOSITORY, "1", manifest(layer({"own": b"o"})))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        path = rooms.proxy.rooms.disk.blobs.path_of(image.digest)
        silently(name_no_layers, path)
        [held] = await rooms.holdings.images_of(PLACE, strictly=True)
        assert set(held.reach()) == {found.digest for found in (image.manifest, *image.blobs)}
        assert not path.exists()
        assert len(list((cache_dir / "quarantine").iterdir())) == 1
        [held] = await rooms.holdings.images_of(PLACE)
        assert set(held.reach()) == {image.digest}


def name_no_layers(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"layers", b"lAyers"))
