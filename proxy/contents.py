"""What a manifest holds, as far as images are told of: its children, and for which platforms they are. Pure."""

import json
from dataclasses import dataclass

from proxy.oci import Digest, parse_manifest


@dataclass(frozen=True, slots=True)
class Part:
    """One child of a manifest. `platform` is `os/architecture[/variant]`, for the manifests of an index."""

    digest: Digest
    size: int
    is_manifest: bool
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """A manifest's own size in bytes and its children; those that no registry serves (foreign layers) left out.

    `is_guess`: nobody knows them, and these are all that they may be.
    """

    size: int
    parts: tuple[Part, ...]
    is_guess: bool = False


def contents_of(body: bytes, media_type: str | None) -> Contents:
    """Raises ManifestAmbiguous."""
    children = parse_manifest(body, media_type).children
    platforms = _platforms(body)
    return Contents(
        len(body),
        tuple(
            Part(child.descriptor.digest, child.descriptor.size, child.is_manifest, platforms.get(number))
            for number, child in enumerate(children)
            if not child.is_foreign
        ),
    )


def _platforms(body: bytes) -> dict[int, str]:
    """The platforms of an index's manifests by their place in it; what is no platform is left out."""
    found: dict[int, str] = {}
    listed = json.loads(body).get("manifests")
    for number, item in enumerate(listed if isinstance(listed, list) else ()):
        platform = item.get("platform")
        if isinstance(platform, dict):
            words = [platform.get(key) for key in ("os", "architecture", "variant")]
            found[number] = "/".join(word for word in words if isinstance(word, str) and word)[:80]
    return found
