"""An image to evict, and what of it is still held or linked."""

from proxy.oci import Digest
from proxy.rules import Place
from tests.support.images import Image, layer
from tests.support.kept import REPOSITORY, Kept
from tests.support.proxy import UPSTREAM

NAME = f"{UPSTREAM}/{REPOSITORY}"
PLACE = Place(UPSTREAM, REPOSITORY)
BASE = layer({"base": b"b" * 5000})


def digests_of(*images: Image) -> set[Digest]:
    return {found.digest for image in images for found in (*image.all_manifests(), *image.all_blobs())}


def held(rooms: Kept, *images: Image) -> set[Digest]:
    """Which digests of these images are in the store."""
    return {digest for digest in digests_of(*images) if rooms.has(digest)}


async def links(rooms: Kept, place: Place = PLACE) -> set[Digest]:
    return {link.digest for link in await rooms.proxy.rooms.disk.records.links(place)}
