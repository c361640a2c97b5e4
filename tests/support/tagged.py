"""A tag behind the proxy, and an answer that is stale as the contract says."""

from tests.support.images import Image
from tests.support.proxy import Reply
from tests.support.registry import Registry

APP = "team/app"
TAG = f"{APP}/manifests/1"
HELD = "cistern-test; hit"


def counts(registry: Registry) -> tuple[int, int]:
    """How often the tag was asked for upstream, by HEAD and by GET."""
    return registry.requests_for("1", "HEAD"), registry.requests_for("1")


def is_stale(answer: Reply, image: Image, age: int) -> None:
    """Assert that an answer is the held image, marked stale as the contract says."""
    assert (answer.status, answer.body) == (200, image.manifest.data)
    assert answer.headers["Cache-Status"].startswith("cistern-test; hit; ttl=-")
    assert answer.headers["Warning"].startswith('299 - "stale: ')
    assert int(answer.headers["Age"]) == age
