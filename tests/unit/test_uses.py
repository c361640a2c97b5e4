"""When content was last used: heard from clients, noted behind their backs."""

from pathlib import Path

from proxy.events import BlobAsked, ManifestFetched
from proxy.oci import Digest
from proxy.uses import HEARD_MAX
from tests.support.clock import Clock
from tests.support.kept import REPOSITORY, Kept, kept
from tests.support.proxy import UPSTREAM
from tests.support.registry import Registry

BLOB, MANIFEST = Digest.of(b"blob"), Digest.of(b"manifest")


async def noted(rooms: Kept, *digests: Digest) -> dict[Digest, float]:
    """The last uses of these, once all of them are noted."""
    while len(found := await rooms.proxy.rooms.disk.index.last_used(digests)) < len(digests):
        assert len(rooms.proxy.rooms.tasks)
    return found


async def test_a_use_is_noted_with_its_time(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """A manifest fetched and a blob asked for; the latest use of each counts."""
    async with kept(cache_dir, registry, clock) as rooms:
        route = rooms.proxy.rooms.rules.route(f"{UPSTREAM}/{REPOSITORY}")
        publish = rooms.proxy.rooms.events.publish
        publish(ManifestFetched(route, MANIFEST))
        publish(BlobAsked(route, BLOB))
        clock.advance(60)
        publish(BlobAsked(route, BLOB))
        assert await noted(rooms, BLOB, MANIFEST) == {MANIFEST: clock() - 60, BLOB: clock()}


async def test_a_flood_of_digests_is_bounded(registry: Registry, cache_dir: Path, clock: Clock) -> None:
    """Past the bound a new digest is not remembered; one that is known already still is."""
    async with kept(cache_dir, registry, clock) as rooms:
        route = rooms.proxy.rooms.rules.route(f"{UPSTREAM}/{REPOSITORY}")
        publish = rooms.proxy.rooms.events.publish
        for number in range(HEARD_MAX + 1):  # no await: nothing is noted in between
            publish(BlobAsked(route, Digest("sha256", f"{number:064x}")))
        clock.advance(60)
        first, last, beyond = (Digest("sha256", f"{number:064x}") for number in (0, HEARD_MAX - 1, HEARD_MAX))
        publish(BlobAsked(route, first))
        assert await noted(rooms, first, last) == {first: clock(), last: clock() - 60}
        assert await rooms.proxy.rooms.disk.index.last_used([beyond]) == {}
