"""Rebuilds a lost index from the store and the records, behind the requests that are being served meanwhile.

What cannot be derived is not lost with it: when a manifest was last fetched by a client comes back with the next fetch.
"""

from proxy.ground import Ground
from proxy.log import logger
from proxy.manifests import Manifests
from proxy.oci import ManifestAmbiguous, parse_manifest
from proxy.store.base import Parent

log = logger("reindex")


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
