"""Rebuilds a lost index from the store and the records, behind the requests that are being served meanwhile.

What cannot be derived is not lost with it: when a manifest was last fetched by a client comes back with the next fetch.
"""

from typing import Final, Protocol

from proxy.ground import Ground
from proxy.log import logger
from proxy.manifests import Manifests
from proxy.oci import ManifestAmbiguous, parse_manifest
from proxy.store.base import Parent

log = logger("reindex")
LOOK_EVERY_S: Final = 5.0


class Opened(Protocol):
    """How often the index's file was opened, and whether it knew nothing the last time."""

    @property
    def generation(self) -> int: ...

    @property
    def is_new(self) -> bool: ...


async def keep_indexed(ground: Ground, manifests: Manifests, index: Opened) -> None:
    """Rebuild the index whenever a new file had to be taken for it: at the start, or after it broke at work."""
    seen = 0
    while True:
        if index.generation != seen:
            seen = index.generation
            if index.is_new:
                await reindex(ground, manifests)
        await ground.sleep(LOOK_EVERY_S)


async def reindex(ground: Ground, manifests: Manifests) -> int:
    """Note the children of every manifest that is held; how many were noted. One at a time: clients go first."""
    noted = 0
    for place in await ground.records.places():
        for link in await ground.records.links(place):
            if link.media_type is None:
                continue
            held = await manifests.held(place, link.digest)
            if held is None:
                continue
            try:
                manifest = parse_manifest(held.body, link.media_type)
            except ManifestAmbiguous as error:
                log.warning("a stored manifest is not one", digest=str(link.digest), error=str(error))
                continue
            children = [(c.descriptor.digest, c.descriptor.size, c.is_manifest) for c in manifest.children]
            await ground.index.save_manifest(Parent(place, link.digest, link.media_type, None), children)
            noted += 1
    if noted:
        log.info("the index was rebuilt", manifests=noted)
    return noted
