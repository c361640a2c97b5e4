"""A manifest with its children, and a job, for the index to know."""

from proxy.oci import OCI_MANIFEST, Digest
from proxy.rules import Place
from proxy.store.base import Job, Parent

PLACE = Place("docker.io", "library/nginx")
PRIVATE = Place("docker.io|team", "library/nginx")


def digest(name: str) -> Digest:
    return Digest.of(name.encode())


MANIFEST = Parent(PLACE, digest("manifest"), OCI_MANIFEST, None)
CHILDREN = [(digest("config"), 100, False), (digest("layer"), 2000, False), (digest("layer"), 2000, False)]
JOB = Job(place=PLACE, rule="r", manifest=digest("manifest"), queued_at=1.0, due_at=2.0)
