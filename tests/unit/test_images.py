"""Which images are here, how complete and how big; and what is kept in all."""

from pathlib import Path

import pytest

from proxy.errors import Denied, NameUnknown
from proxy.oci import DOCKER_MANIFEST, OCI_INDEX
from tests.support.clock import Clock
from tests.support.images import Image, index, layer, manifest
from tests.support.kept import REPOSITORY, Kept, kept
from tests.support.proxy import UPSTREAM, config_text, running
from tests.support.registry import Registry

NAME = f"{UPSTREAM}/{REPOSITORY}"
BASE = layer({"base": b"b" * 5000})


def size_of(image: Image) -> int:
    return sum(found.size for found in (*image.all_manifests(), *image.all_blobs()))


def lose_index(cache: Path) -> None:
    for path in cache.glob("index.sqlite*"):
        path.unlink()


async def test_a_pulled_image_is_listed_whole(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """Name, tag, digest, size and times of an image whose every blob is here."""
    image = registry.add(REPOSITORY, "1", manifest(BASE, docker=True))
    async with kept(cache_dir, registry, clock) as rooms:
        await rooms.pull(image)
        view = await rooms.only()
    assert (view.reference, view.repository, view.tags) == (f"{NAME}:1", NAME, ("1",))
    assert (view.digest, view.media_type, view.platforms) == (str(image.digest), DOCKER_MANIFEST, ())
    assert (view.rule, view.upstream) == (UPSTREAM, UPSTREAM)
    assert (view.complete, view.manifest_here, view.missing) == (True, True, ())
    assert (view.blobs_present, view.blobs_total) == (2, 2)
    assert (view.own_bytes, view.shared_bytes) == (size_of(image), 0)
    assert (view.first_seen, view.last_checked) == (clock(), clock())


async def test_what_is_missing_is_named(registry: Registry, cache_dir: Path) -> None:
    """An image whose layers were not pulled is not whole, and says which digests lack."""
    image = registry.add(REPOSITORY, "1", manifest(BASE, layer({"more": b"m"})))
    async with kept(cache_dir, registry) as rooms:
        await rooms.proxy.ask(f"{REPOSITORY}/manifests/1")
        await rooms.proxy.pull(image.layers[0])
        await rooms.proxy.quiet()
        view = await rooms.only()
    assert (view.complete, view.blobs_present, view.blobs_total) == (False, 1, 3)
    lacking = {str(blob.digest) for blob in image.blobs} - {str(image.layers[0].digest)}
    assert set(view.missing) == lacking
    assert view.own_bytes == image.manifest.size + image.layers[0].size


async def test_a_tag_that_was_only_looked_at_is_a_tag_only(registry: Registry, cache_dir: Path) -> None:
    """HEAD leaves a tag without its manifest: listed as such, with nothing of its own."""
    registry.add(REPOSITORY, "1", manifest())
    async with kept(cache_dir, registry) as rooms:
        await rooms.proxy.ask(f"{REPOSITORY}/manifests/1", method="HEAD")
        view = await rooms.only()
    assert (view.manifest_here, view.complete, view.own_bytes) == (False, False, 0)
    assert view.tags == ("1",)


async def test_an_index_is_one_image_and_shows_its_platforms(registry: Registry, cache_dir: Path) -> None:
    """Its platforms' manifests are no images of their own; whole means whole for the platforms that were pulled."""
    image = registry.add(REPOSITORY, "1", index())
    amd64, arm64 = image.children
    async with kept(cache_dir, registry) as rooms:
        await rooms.proxy.ask(f"{REPOSITORY}/manifests/1")
        alone = await rooms.only()
        await rooms.pull(amd64, tag=None)
        view = await rooms.only()
    assert (alone.complete, alone.manifest_here) == (False, True)
    assert (view.media_type, view.complete) == (OCI_INDEX, True)
    assert [(item.platform, item.digest, item.here) for item in view.platforms] == [
        ("linux/amd64", str(amd64.digest), True),
        ("linux/arm64", str(arm64.digest), False),
    ]
    assert [(item.blobs_present, item.blobs_total) for item in view.platforms] == [(2, 2), (0, 0)]


async def test_tags_of_one_digest_are_one_image(registry: Registry, cache_dir: Path) -> None:
    """Two tags for the same manifest are one row with both."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    registry.add(REPOSITORY, "latest", image)
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        await rooms.proxy.ask(f"{REPOSITORY}/manifests/latest")
        view = await rooms.only()
    assert view.tags == ("1", "latest")
    assert view.own_bytes == size_of(image)


async def test_an_image_without_a_tag_is_listed_by_digest(registry: Registry, cache_dir: Path) -> None:
    """What was pulled by digest, and what a tag has left behind by moving on, is still an image."""
    image = registry.add(REPOSITORY, None, manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image, tag=None)
        view = await rooms.only()
    assert (view.reference, view.tags, view.complete) == (f"{NAME}@{image.digest}", (), True)
    assert (view.first_seen, view.last_checked) == (None, None)


async def test_a_shared_layer_counts_as_shared_for_each(registry: Registry, cache_dir: Path) -> None:
    """What evicting an image would free is its own; the common base is not."""
    one = registry.add(REPOSITORY, "1", manifest(BASE, layer({"one": b"1" * 3000})))
    two = registry.add("team/other", "2", manifest(BASE, layer({"two": b"2" * 900})))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(one)
        await rooms.pull(two, "2", "team/other")
        views = {view.reference: view for view in await rooms.images.listing()}
    assert [view.shared_bytes for view in views.values()] == [BASE.size, BASE.size]
    assert views[f"{NAME}:1"].own_bytes == size_of(one) - BASE.size


async def test_a_reference_narrows_the_list(registry: Registry, cache_dir: Path) -> None:
    """A repository, a tag or a digest; a repository that is not here has no images."""
    one = registry.add(REPOSITORY, "1", manifest(BASE))
    two = registry.add(REPOSITORY, "2", manifest(layer({"two": b"2"})))
    other = registry.add("team/other", "1", manifest(layer({"other": b"o"})))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(one)
        await rooms.pull(two, "2")
        await rooms.pull(other, "1", "team/other")
        found = {
            asked: [view.digest for view in await rooms.images.listing(asked)]
            for asked in (NAME, f"{NAME}:2", f"{NAME}@{one.digest}", f"{NAME}:3", f"{UPSTREAM}/nothing")
        }
        with pytest.raises(NameUnknown):
            await rooms.images.listing("elsewhere.test/app")
    assert sorted(found[NAME]) == sorted([str(one.digest), str(two.digest)])
    assert found[f"{NAME}:2"] == [str(two.digest)]
    assert found[f"{NAME}@{one.digest}"] == [str(one.digest)]
    assert found[f"{NAME}:3"] == found[f"{UPSTREAM}/nothing"] == []


async def test_what_is_denied_now_can_still_be_seen(registry: Registry, cache_dir: Path) -> None:
    """A new deny rule hides nothing that is here: an operator has to find it."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        rooms.take_rules(
            config_text(cache_dir, registry, f"rules: [{{name: no, upstream: {UPSTREAM}/team/*, deny: true}}]\n")
        )
        view = await rooms.only(NAME)
        with pytest.raises(Denied):
            await rooms.images.listing(f"{UPSTREAM}/team/nothing")
    assert (view.reference, view.rule) == (f"{NAME}:1", None)


async def test_an_image_is_called_as_its_rule_is(
    registry: Registry, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content of another credential set is reached by its rule's own path only, and is named by it."""
    monkeypatch.setenv("PASSWORD", "secret")
    image = registry.add("team/app", "1", manifest(BASE))
    rules = (
        "credentials: {set: {username: me, password: {env: PASSWORD}}}\nhydrate: {image: none}\n"
        f"rules: [{{name: anybody, upstream: {UPSTREAM}/team/*}},"
        f" {{name: own, repository: mine/*, upstream: {UPSTREAM}/team/*, credentials: set}}]\n"
    )
    async with running(config_text(cache_dir, registry, rules, allow_insecure_credentials=True)) as proxy:
        rooms = Kept.over(proxy)
        await rooms.pull(image, "1", "app", prefix="/v2/mine/")
        view = await rooms.only()
        assert await rooms.images.listing(view.reference) == [view]
        assert await rooms.images.listing(NAME) == []
    assert (view.rule, view.reference) == ("own", "mine/app:1")


async def test_the_last_use_is_that_of_any_part(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """A client that asks for one layer has used the image."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry, clock) as rooms:
        await rooms.pull(image)
        pulled_at = clock()
        clock.advance(30)
        await rooms.proxy.pull(image.layers[0])
        while (view := await rooms.only()).last_used in (None, pulled_at):  # noted behind the answer
            assert len(rooms.proxy.rooms.tasks)
    assert view.last_used == clock()


async def test_a_lost_index_changes_nothing(registry: Registry, cache_dir: Path) -> None:
    """Images are read from manifests: the derived index may be gone."""
    image = registry.add(REPOSITORY, "1", index())
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        before = await rooms.only()
    lose_index(cache_dir)
    async with kept(cache_dir, registry) as rooms:
        after = await rooms.only()
    assert (after.complete, after.own_bytes, after.platforms) == (True, before.own_bytes, before.platforms)


async def test_a_manifest_that_is_gone_from_disk_is_not_here(registry: Registry, cache_dir: Path) -> None:
    """A link alone is no image: what the store lost is told as missing."""
    image = registry.add(REPOSITORY, "1", manifest(BASE))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(image)
        assert (await rooms.only()).complete
        rooms.proxy.rooms.disk.blobs.path_of(image.digest).unlink()
        view = await rooms.only()
    assert (view.manifest_here, view.complete) == (False, False)


async def test_usage_adds_up(registry: Registry, cache_dir: Path) -> None:
    """Everything stored is counted once in all, and once for each upstream, rule and image that holds it."""
    one = registry.add(REPOSITORY, "1", manifest(BASE, layer({"one": b"1" * 3000})))
    two = registry.add("team/other", "2", manifest(BASE))
    loose = registry.add_blob(REPOSITORY, layer({"loose": b"l" * 400}))
    async with kept(cache_dir, registry) as rooms:
        await rooms.pull(one)
        await rooms.pull(two, "2", "team/other")
        await rooms.proxy.pull(loose)
        await rooms.proxy.quiet()
        usage = await rooms.images.usage()
        on_disk = sum(path.stat().st_size for path in (cache_dir / "blobs").rglob("*") if path.is_file())
    assert usage.bytes == on_disk == size_of(one) + size_of(two) + loose.size - BASE.size
    assert usage.blobs == 7
    assert (usage.unused_bytes, usage.unused_blobs) == (loose.size, 1)
    assert [(share.name, share.bytes, share.blobs) for share in usage.upstreams] == [(UPSTREAM, usage.bytes, 7)]
    assert [(share.name, share.bytes) for share in usage.rules] == [(UPSTREAM, usage.bytes)]
    assert [(share.reference, share.shared_bytes) for share in usage.images] == [
        (f"{NAME}:1", BASE.size),
        (f"{UPSTREAM}/team/other:2", BASE.size),
    ]
    assert usage.disk.parts_bytes == 0
    assert usage.disk.limit_bytes > 0
    assert usage.as_json()["upstreams"] == ({"name": UPSTREAM, "blobs": 7, "bytes": usage.bytes},)


async def test_usage_tells_of_the_disk_and_how_it_fills(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """Used, promised, left to others, and the growth since an earlier size."""
    async with kept(cache_dir, registry, clock) as rooms:
        capacity = rooms.proxy.rooms.capacity
        await rooms.pull(registry.add(REPOSITORY, "1", manifest(BASE)))
        await rooms.proxy.rooms.ground.index.save_size(clock() - 2 * 86_400, 0)
        claim = capacity.claim(1_000_000)
        claim.written = 400_000
        disk = (await rooms.images.usage()).disk
        claim.release()
    assert disk.used_bytes is not None
    assert disk.used_bytes > 400_000
    assert disk.reserved_bytes == claim.promised - 400_000
    assert disk.growth_per_day_bytes == disk.used_bytes / 2
    assert disk.days_to_full is not None
    assert disk.days_to_full > 0
    assert 0 < disk.keep_free_bytes < disk.free_bytes + disk.limit_bytes


async def test_an_empty_cache_has_no_images(registry: Registry, cache_dir: Path) -> None:
    """Nothing is here, and nothing is used."""
    async with kept(cache_dir, registry) as rooms:
        assert await rooms.images.listing() == []
        usage = await rooms.images.usage()
    assert (usage.bytes, usage.blobs, usage.images, usage.upstreams) == (0, 0, (), ())
