"""Builders of images: small ones in memory, `blob() -> manifest() -> index()`, valid down to their diff_ids.

Deterministic: the same arguments give the same digests in every run. Knows the specs' nouns; no registry, no client.
Invariant: an `Image` holds everything it reaches, so that pushing or checking it needs nothing else.
"""

import gzip
import hashlib
import io
import itertools
import json
import random
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy import oci
from proxy.oci import Descriptor, Digest

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes by digest, in memory or in a file. `diff_id` is the digest of the tar inside, for a layer."""

    descriptor: Descriptor
    source: bytes | Path
    diff_id: Digest

    @classmethod
    def of(cls, data: bytes, media_type: str, diff_id: Digest | None = None) -> "Blob":
        digest = Digest.of(data)
        return cls(Descriptor(media_type, digest, len(data)), data, diff_id or digest)

    @property
    def digest(self) -> Digest:
        return self.descriptor.digest

    @property
    def size(self) -> int:
        return self.descriptor.size

    @property
    def media_type(self) -> str:
        return self.descriptor.media_type

    @property
    def data(self) -> bytes:
        """All its bytes; read from disk for a real layer."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest with its config and layers, or an index with its images (`children`)."""

    manifest: Blob
    blobs: tuple[Blob, ...] = ()
    children: "tuple[Image, ...]" = ()
    platform: tuple[str, str] = ("linux", "amd64")

    @property
    def digest(self) -> Digest:
        return self.manifest.digest

    @property
    def layers(self) -> tuple[Blob, ...]:
        return self.blobs[1:]

    def all_manifests(self) -> tuple[Blob, ...]:
        """Its own manifest and its children's, each digest once."""
        return _once(itertools.chain([self.manifest], *(child.all_manifests() for child in self.children)))

    def all_blobs(self) -> tuple[Blob, ...]:
        """Every config and layer it reaches, each digest once; no manifests."""
        return _once(itertools.chain(self.blobs, *(child.all_blobs() for child in self.children)))


def blob(size: int = 300, *, seed: int = 0, data: bytes | None = None, media_type: str = OCI_LAYER) -> Blob:
    """`data`, or `size` bytes of noise that only `seed` and `size` decide. No tar: see `layer`."""
    return Blob.of(random.Random(f"{seed}/{size}").randbytes(size) if data is None else data, media_type)


def layer(files: Mapping[str, bytes] | None = None, *, media_type: str = OCI_LAYER) -> Blob:
    """A real layer, gzipped unless `media_type` is the plain tar's; by default one small file."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in ({"etc/motd": b"welcome\n"} if files is None else files).items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    plain = tar.getvalue()
    packed = plain if media_type == OCI_LAYER_TAR else gzip.compress(plain, compresslevel=6, mtime=0)
    return Blob.of(packed, media_type, Digest.of(plain))


def manifest(
    *layers: Blob, docker: bool = False, architecture: str = "amd64", extra: Mapping[str, Any] | None = None
) -> Image:
    """An image of `layers` (by default one small real layer), with a config whose diff_ids are true.

    `docker` uses Docker's media types throughout; `extra` adds members to the manifest's JSON.
    """
    parts = layers or (layer(),)
    if docker:
        parts = tuple(Blob(_retyped(part.descriptor, DOCKER_LAYER), part.source, part.diff_id) for part in parts)
    config = Blob.of(
        _json(
            {
                "architecture": architecture,
                "os": "linux",
                "config": {"Cmd": ["/bin/true"]},
                "rootfs": {"type": "layers", "diff_ids": [str(part.diff_id) for part in parts]},
                "history": [{"created": "2026-11-23T00:00:00Z", "created_by": f"layer {n}"} for n in range(len(parts))],
            }
        ),
        DOCKER_CONFIG if docker else OCI_CONFIG,
    )
    media_type = oci.DOCKER_MANIFEST if docker else oci.OCI_MANIFEST
    body = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": described(config.descriptor),
        "layers": [described(part.descriptor) for part in parts],
        **(extra or {}),
    }
    return Image(Blob.of(_json(body), media_type), (config, *parts), platform=("linux", architecture))


def index(*images: Image, docker: bool = False, extra: Mapping[str, Any] | None = None) -> Image:
    """A list of `images` by platform; by default an amd64 and an arm64 image."""
    children = images or tuple(
        manifest(layer({"arch": arch.encode()}), docker=docker, architecture=arch) for arch in ("amd64", "arm64")
    )
    media_type = oci.DOCKER_LIST if docker else oci.OCI_INDEX
    body = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [
            described(child.manifest.descriptor)
            | {"platform": {"os": child.platform[0], "architecture": child.platform[1]}}
            for child in children
        ],
        **(extra or {}),
    }
    return Image(Blob.of(_json(body), media_type), children=children)


def described(descriptor: Descriptor) -> dict[str, Any]:
    """A descriptor as it stands in a manifest's JSON."""
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def file_blob(path: Path, media_type: str, diff_id: Digest | None = None) -> Blob:
    """A file as a blob; its bytes stay on disk."""
    with path.open("rb") as file:
        digest = Digest("sha256", hashlib.file_digest(file, "sha256").hexdigest())
    return Blob(Descriptor(media_type, digest, path.stat().st_size), path, diff_id or digest)


def _retyped(descriptor: Descriptor, media_type: str) -> Descriptor:
    return Descriptor(media_type, descriptor.digest, descriptor.size)


def _once(blobs: Iterable[Blob]) -> tuple[Blob, ...]:
    return tuple({found.digest: found for found in blobs}.values())


def _json(document: Mapping[str, Any]) -> bytes:
    # Indented, as docker-registry's own clients write: a proxy that re-serialises would change the digest (M14).
    return json.dumps(document, indent=3).encode()


def chunks(data: bytes, size: int = 64 * 1024) -> Iterator[bytes]:
    """`data` in pieces of `size` bytes."""
    return (data[start : start + size] for start in range(0, len(data), size))
