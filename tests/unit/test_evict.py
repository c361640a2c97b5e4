"""Dropping an image: its own content goes, and what another image, tag or place names stays."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import Denied, DigestInvalid, ManifestUnknown, NameInvalid, NameUnknown
from proxy.events import Evicted
from proxy.evict import EvictReport
from proxy.oci import Digest
from proxy.rules import Place
from tests.support.evicting import BASE, NAME, PLACE, digests_of, held, links
from tests.support.images import index, layer, manifest
from tests.support.kept import REPOSITORY, kept
from tests.support.proxy import UPSTREAM, config_text
from tests.support.registry import Registry


async def test_an_image_goes_with_all_it_has_alone(registry: Registry, cache_dir: Path) -> None:
    """Tag, links, manifest and blobs are gone, and the report counts them."""
    image = registry.add(REPOSITORY, "1", manifest(BASE, layer({"own": b"o"})))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        size = sum(found.size for found in (image.manifest, *image.blobs))
        assert await rooms.evict.named(f"{NAME}:1") == EvictReport(tags=1, manifests=1, blobs=3, bytes=size)
        assert held(rooms, image) == set()
        assert await links(rooms) == set()
        assert await rooms.images.listing() == []


async def test_what_was_evicted_can_be_pulled_again(registry: Registry, cache_dir: Path) -> None:
    """Nothing remembers the image: the next client gets it from the upstream, manifest included."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        await rooms.evict.named(f"{NAME}:1")
        registry.forget()
        await rooms.pull(image)
        assert (registry.requests_for("1"), registry.requests_for(image.digest)) == (1, 0)
        assert registry.requests_for(BASE.digest) == 1
        assert (await rooms.only()).complete


async def test_shared_layers_stay(registry: Registry, cache_dir: Path) -> None:
    """A layer that another image of the same repository names is neither deleted nor forgotten there."""
    one = registry.add(REPOSITORY, "1", manifest(BASE, layer({"one": b"1"})))
    two = registry.add(REPOSITORY, "2", manifest(BASE, layer({"two": b"2"})))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(one)
        await rooms.pull(two, "2")
        report = await rooms.evict.named(f"{NAME}:1")
        assert report.blobs == 2
        assert held(rooms, one, two) == digests_of(two)
        assert await links(rooms) == digests_of(two)
        await registry.stop()
        assert (await rooms.proxy.pull(BASE)).body == BASE.data


async def test_what_another_place_names_stays_there_only(registry: Registry, cache_dir: Path) -> None:
    """The bytes stay for the other repository; the evicted one is no longer known to hold them."""
    image = manifest(BASE)
    registry.add(REPOSITORY, "1", image)
    registry.add("team/other", "1", image)
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        await rooms.pull(image, "1", "team/other")
        report = await rooms.evict.named(f"{NAME}:1")
        assert (report.manifests, report.blobs, report.bytes) == (0, 0, 0)
        assert held(rooms, image) == digests_of(image)
        assert await links(rooms) == set()
        assert await links(rooms, Place(UPSTREAM, "team/other")) == digests_of(image)
        assert (await rooms.only()).complete


async def test_an_image_with_two_tags_loses_one(registry: Registry, cache_dir: Path) -> None:
    """A tag is dropped; what another tag names stays whole."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    registry.add(REPOSITORY, "2", image)
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        await rooms.proxy.ask(f"{REPOSITORY}/manifests/2")
        assert await rooms.evict.named(f"{NAME}:1") == EvictReport(tags=1)
        assert (await rooms.only()).tags == ("2",)
        assert held(rooms, image) == digests_of(image)


async def test_by_digest_all_its_tags_go(registry: Registry, cache_dir: Path) -> None:
    """An image named by its digest is dropped whole, whatever tags name it."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    registry.add(REPOSITORY, "2", image)
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        await rooms.proxy.ask(f"{REPOSITORY}/manifests/2")
        report = await rooms.evict.named(f"{NAME}@{image.digest}")
        assert (report.tags, report.manifests, report.blobs) == (2, 1, 2)
        assert held(rooms, image) == set()
        assert await rooms.images.listing() == []


async def test_an_index_goes_with_its_platforms(registry: Registry, cache_dir: Path) -> None:
    """Every manifest and blob below it is dropped."""
    image = registry.add(REPOSITORY, "1", index())
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        report = await rooms.evict.named(f"{NAME}:1")
        assert (report.manifests, report.blobs) == (3, len(image.all_blobs()))
        assert held(rooms, image) == set()


async def test_a_platform_with_a_tag_of_its_own_outlives_its_index(registry: Registry, cache_dir: Path) -> None:
    """The tagged platform is another image, and stays whole; the other platform goes."""
    image = registry.add(REPOSITORY, "1", index())
    amd64, arm64 = image.children
    registry.add(REPOSITORY, "amd64", amd64)
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        await rooms.proxy.ask(f"{REPOSITORY}/manifests/amd64")
        await rooms.evict.named(f"{NAME}:1")
        view = await rooms.only()
        assert (view.tags, view.digest, view.complete) == (("amd64",), str(amd64.digest), True)
        assert held(rooms, image) == digests_of(amd64)
        assert await links(rooms) == digests_of(amd64)
        assert not rooms.has(arm64.digest)


async def test_a_tag_on_part_of_an_index_goes_alone(registry: Registry, cache_dir: Path) -> None:
    """The platform stays, since its index names it."""
    image = registry.add(REPOSITORY, "1", index())
    registry.add(REPOSITORY, "amd64", image.children[0])
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        await rooms.proxy.ask(f"{REPOSITORY}/manifests/amd64")
        assert await rooms.evict.named(f"{NAME}:amd64") == EvictReport(tags=1)
        assert held(rooms, image) == digests_of(image)
        assert (await rooms.only()).tags == ("1",)


async def test_part_of_an_index_is_not_torn_out(registry: Registry, cache_dir: Path) -> None:
    """Asked for by digest, it is refused, naming what to evict."""
    image = registry.add(REPOSITORY, "1", index())
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        with pytest.raises(Denied, match=str(image.digest)):
            await rooms.evict.named(f"{NAME}@{image.children[0].digest}")
        assert held(rooms, image) == digests_of(image)


async def test_a_lost_index_file_costs_no_shared_layer(registry: Registry, cache_dir: Path) -> None:
    """Who shares what is read from the manifests: right also where the derived index is gone."""
    one = registry.add(REPOSITORY, "1", manifest(BASE, layer({"one": b"1"})))
    two = registry.add("team/other", "2", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(one)
        await rooms.pull(two, "2", "team/other")
    lose_index(cache_dir)
    async with kept(cache_dir, registry) as rooms:
        await rooms.evict.named(f"{NAME}:1")
        assert held(rooms, one, two) == digests_of(two)


def lose_index(cache: Path) -> None:
    for path in cache.glob("index.sqlite*"):
        path.unlink()


async def test_a_tag_without_its_manifest_goes(registry: Registry, cache_dir: Path) -> None:
    """What a HEAD left behind can be dropped too."""
    registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.proxy.ask(f"{REPOSITORY}/manifests/1", method="HEAD")
        assert await rooms.evict.named(f"{NAME}:1") == EvictReport(tags=1)
        assert await rooms.images.listing() == []


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        (f"{NAME}:2", ManifestUnknown),
        (f"{NAME}@{Digest.of(b'nothing')}", ManifestUnknown),
        (f"{NAME}@{BASE.digest}", Denied),
        (f"{UPSTREAM}/team/nothing:1", ManifestUnknown),
        ("elsewhere.test/app:1", NameUnknown),
        ("NOT A NAME", NameInvalid),
        (f"{NAME}@sha256:short", DigestInvalid),
    ],
    ids=["tag", "digest", "a layer", "repository", "registry", "no name", "no digest"],
)
async def test_what_is_not_here_is_said_so(
    registry: Registry, cache_dir: Path, reference: str, error: type[Exception]
) -> None:
    """An error for what is no image of this cache, and nothing is touched."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        with pytest.raises(error):
            await rooms.evict.named(reference)
        assert held(rooms, image) == digests_of(image)
        assert (await rooms.only()).complete


async def test_what_a_new_rule_denies_can_be_evicted(registry: Registry, cache_dir: Path) -> None:
    """Denying an image and dropping what is here of it is one story."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        rooms.take_rules(
            config_text(cache_dir, registry, f"rules: [{{name: no, upstream: {UPSTREAM}/team/*, deny: true}}]\n")
        )
        report = await rooms.evict.named(f"{NAME}:1")
        assert (report.manifests, report.blobs) == (1, 2)
        assert held(rooms, image) == set()


async def test_a_route_says_where(registry: Registry, cache_dir: Path) -> None:
    """A room that has a route already evicts by it."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        report = await rooms.evict.evict(rooms.proxy.rooms.rules.route(NAME), "1")
        assert report.as_json() == {"tags": 1, "manifests": 1, "blobs": 2, "bytes": report.bytes}
        assert held(rooms, image) == set()


async def test_loose_content_is_told_of_whatever_its_links_meet(registry: Registry, cache_dir: Path) -> None:
    """Its blocks are gone by then."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        told: list[Evicted] = []
        rooms.proxy.rooms.events.listen(Evicted, told.append)

        def places() -> Iterator[Place]:
            yield PLACE
            raise OSError(errno.EIO, "the disk refuses")

        with pytest.raises(OSError, match="the disk refuses"):
            await rooms.evict.removal.loose(BASE.digest, places())
        assert told == [Evicted(None, BASE.digest, frozenset((BASE.digest,)), BASE.size)]
