"""The nouns of the OCI distribution and image specs: parsed once at the door, then trusted. Pure; knows no I/O.

Grammar: distribution-spec 1.1 "Pulling manifests", image-spec "descriptor.md". A name that passed `repository()` and a
digest that passed `Digest.parse` may be used in paths, logs and queries as they are.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.errors import DigestInvalid, NameInvalid, TagInvalid

REPOSITORY_MAX: Final = 255
NAME: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*", re.ASCII)
TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
DIGEST: Final = re.compile(r"(?P<algorithm>[a-z0-9]+(?:[+._-][a-z0-9]+)*):(?P<encoded>[a-zA-Z0-9=_-]+)", re.ASCII)
HEX_LENGTH: Final = {"sha256": 64, "sha384": 96, "sha512": 128}
HEX: Final = re.compile(r"[0-9a-f]+", re.ASCII)
SIZE_MAX: Final = (1 << 63) - 1  # image-spec: a size is an int64

DOCKER_MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST: Final = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX: Final = "application/vnd.oci.image.index.v1+json"
OCI_ARTIFACT: Final = "application/vnd.oci.artifact.manifest.v1+json"
IMAGE_TYPES: Final = frozenset({DOCKER_MANIFEST, OCI_MANIFEST})
INDEX_TYPES: Final = frozenset({DOCKER_LIST, OCI_INDEX})
MANIFEST_TYPES: Final = IMAGE_TYPES | INDEX_TYPES | {OCI_ARTIFACT}
OCTETS: Final = "application/octet-stream"
# Registries answer a poor Accept with schema 1 or one platform, under another digest: ask for all (protocol M09).
ACCEPT: Final = f"{OCI_INDEX}, {DOCKER_LIST}, {OCI_MANIFEST}, {DOCKER_MANIFEST}, {OCI_ARTIFACT}, */*;q=0.1"


@dataclass(frozen=True, slots=True)
class Digest:
    """`algorithm:hex` of a registered algorithm. Its text is safe as a file name once `:` is replaced."""

    algorithm: str
    encoded: str

    @classmethod
    def parse(cls, text: str) -> "Digest":
        match = DIGEST.fullmatch(text) if len(text) <= 256 else None
        if match is None:
            raise DigestInvalid(f"not a digest: {text[:80]!r}")
        algorithm, encoded = match["algorithm"], match["encoded"]
        if algorithm not in HEX_LENGTH:
            raise DigestInvalid(f"digest algorithm {algorithm[:40]!r} is not one of {', '.join(HEX_LENGTH)}")
        if len(encoded) != HEX_LENGTH[algorithm] or HEX.fullmatch(encoded) is None:
            raise DigestInvalid(f"a {algorithm} digest has {HEX_LENGTH[algorithm]} lower-case hexadecimal digits")
        return cls(algorithm, encoded)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> "Digest":
        return cls(algorithm, hashlib.new(algorithm, data).hexdigest())

    def hasher(self) -> "hashlib._Hash":
        """A fresh hash object of this digest's algorithm."""
        return hashlib.new(self.algorithm)

    def matches(self, data: bytes) -> bool:
        return hashlib.new(self.algorithm, data).hexdigest() == self.encoded

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.encoded}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Content's media type, digest and size in bytes (image-spec descriptor.md)."""

    media_type: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes `start` up to, not including, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Reference:
    """A repository plus a tag or a digest; a digest wins where a client names both."""

    repository: str
    target: str | Digest

    @property
    def tag(self) -> str | None:
        return self.target if isinstance(self.target, str) else None

    @property
    def digest(self) -> Digest | None:
        return self.target if isinstance(self.target, Digest) else None

    def __str__(self) -> str:
        return f"{self.repository}{':' if isinstance(self.target, str) else '@'}{self.target}"


def repository(text: str) -> str:
    """`text` if it is a repository name; raises NameInvalid."""
    if len(text) > REPOSITORY_MAX or NAME.fullmatch(text) is None:
        raise NameInvalid(f"not a repository name: {text[:80]!r} (lower case letters, digits, . _ - / between)")
    return text


def tag(text: str) -> str:
    """`text` if it is a tag; raises TagInvalid."""
    if TAG.fullmatch(text) is None:
        raise TagInvalid(f"not a tag: {text[:80]!r} (at most 128 letters, digits, and _ . -)")
    return text


def tag_or_digest(text: str) -> str | Digest:
    """What stands behind `manifests/`: a digest if it has a colon, else a tag."""
    return Digest.parse(text) if ":" in text else tag(text)


@dataclass(frozen=True, slots=True)
class Child:
    """A descriptor inside a manifest. `is_manifest` goes by media type: a BuildKit cache index lists layers."""

    descriptor: Descriptor
    is_manifest: bool
    is_foreign: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest's JSON says, as far as the cache needs it. `children` are its config, layers or manifests."""

    media_type: str
    children: tuple[Child, ...]
    subject: Digest | None = None
    artifact_type: str | None = None

    @property
    def is_image(self) -> bool:
        return self.media_type in IMAGE_TYPES


class ManifestAmbiguous(ValueError):
    """The JSON is no manifest, or says two things at once (CVE-2021-41190)."""


def bare_media_type(header: str | None) -> str | None:
    """A Content-Type without its parameters, lower case; None for none."""
    if header is None:
        return None
    return header.partition(";")[0].strip().lower() or None


def parse_manifest(body: bytes, content_type: str | None) -> Manifest:
    """Read a manifest's JSON; raises ManifestAmbiguous. The media type is the header's if it names one, else the
    body's `mediaType`, else told from its structure (protocol M11); header and body must not disagree.
    """
    document = _document(body)
    media_type = _media_type(document, bare_media_type(content_type))
    listed = _descriptors(document)
    subject = document.get("subject")
    artifact_type = document.get("artifactType")
    return Manifest(
        media_type=media_type,
        children=tuple(listed),
        subject=_child(subject).descriptor.digest if subject is not None else None,
        artifact_type=artifact_type if isinstance(artifact_type, str) else None,
    )


def _document(body: bytes) -> dict[str, Any]:
    """The JSON object of a manifest. A key that stands twice is read differently by different clients: refused."""
    try:
        # orjson refuses NaN, lone surrogates, a BOM and bad UTF-8, but takes the last of two keys; json can tell.
        document = orjson.loads(body)
        json.loads(body, object_pairs_hook=_unequal_keys)
    except (ValueError, RecursionError) as cause:
        raise ManifestAmbiguous(f"not JSON: {str(cause)[:200]}") from cause
    if not isinstance(document, dict):
        raise ManifestAmbiguous("not a JSON object")
    return document


def _unequal_keys(pairs: list[tuple[str, Any]]) -> None:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("an object has one key twice")


def _media_type(document: dict[str, Any], header: str | None) -> str:
    if "manifests" in document and ("layers" in document or "config" in document):
        raise ManifestAmbiguous("both an index and an image: it has manifests and layers")
    if document.get("schemaVersion") != 2 and OCI_ARTIFACT not in (header, document.get("mediaType")):
        raise ManifestAmbiguous("schemaVersion is not 2")
    inside = document.get("mediaType")
    if inside is not None and not isinstance(inside, str):
        raise ManifestAmbiguous("mediaType is not text")
    if header in MANIFEST_TYPES and inside is not None and inside != header:
        raise ManifestAmbiguous(f"Content-Type {header} but mediaType {inside[:80]!r}")
    named = header if header in MANIFEST_TYPES else inside
    if named is None:
        named = OCI_INDEX if "manifests" in document else OCI_MANIFEST
    if named not in MANIFEST_TYPES:
        raise ManifestAmbiguous(f"media type {named[:80]!r} is not a manifest's")
    foreign = ("layers", "config") if named in INDEX_TYPES else ("manifests",)
    if any(key in document for key in foreign):
        raise ManifestAmbiguous(f"media type {named} does not fit its content")
    return named


def _descriptors(document: dict[str, Any]) -> list[Child]:
    config = document.get("config")
    found = [] if config is None else [_child(config)]
    for key in ("layers", "manifests", "blobs"):
        listed = document.get(key)
        if not isinstance(listed, list | None):
            raise ManifestAmbiguous(f"{key} is not a list")
        found += [_child(item) for item in listed or ()]
    return found


def _child(item: Any) -> Child:
    if not isinstance(item, dict):
        raise ManifestAmbiguous("a descriptor is not an object")
    size, media_type, text = item.get("size"), item.get("mediaType"), item.get("digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= SIZE_MAX:
        raise ManifestAmbiguous("a descriptor's size is not a count of bytes")
    if not isinstance(media_type, str) or not isinstance(text, str):
        raise ManifestAmbiguous("a descriptor lacks mediaType or digest")
    try:
        digest = Digest.parse(text)
    except DigestInvalid as cause:
        raise ManifestAmbiguous(str(cause)) from cause
    foreign = "nondistributable" in media_type or "foreign" in media_type
    return Child(Descriptor(media_type, digest, size), media_type in MANIFEST_TYPES, foreign)
