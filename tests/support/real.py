"""Real images: several layers made from files of this machine, about 170 MB together, built once per session.

The slices are taken from sorted walks, so two runs on one machine give the same digests. Two threads pack: gzip and
hashing leave the interpreter's lock. Knows images and files; no registry.
"""

import fcntl
import gzip
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from proxy.oci import Digest
from tests.support.images import OCI_LAYER, OCI_LAYER_TAR, Blob, Image, file_blob, index, manifest

MIB = 1 << 20
FILE_MAX = 8 * MIB
# name -> (MiB of files, gzipped?)
SLICES = {
    "big": (48, False),
    "mid": (24, False),
    "packed": (24, True),
    "thin": (10, True),
    "small": (2, True),
    "shared": (32, False),
    "amd64": (12, False),
    "arm64": (12, False),
    "docker-a": (16, True),
    "docker-b": (8, True),
    "digest": (12, False),
}


@dataclass(frozen=True, slots=True)
class RealImages:
    """`layered` has five layers; `platforms` is an index of two that share a layer; `docker` has Docker's media types;
    `by_digest` is meant to be pulled by digest.
    """

    layered: Image
    platforms: Image
    docker: Image
    by_digest: Image

    def all(self) -> tuple[Image, ...]:
        return (self.layered, self.platforms, self.docker, self.by_digest)

    def total_bytes(self) -> int:
        """The size of every distinct blob together."""
        return sum({blob.digest: blob.size for image in self.all() for blob in image.all_blobs()}.values())


def real_images(cache_dir: Path) -> RealImages:
    """The real images, their layers as files in `cache_dir`; built by the first caller, whichever process that is."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    with (cache_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        layers = _load(cache_dir) or _build(cache_dir)
    shared = layers["shared"]
    return RealImages(
        layered=manifest(*(layers[name] for name in ("big", "mid", "packed", "thin", "small"))),
        platforms=index(*(manifest(shared, layers[arch], architecture=arch) for arch in ("amd64", "arm64"))),
        docker=manifest(layers["docker-a"], layers["docker-b"], docker=True),
        by_digest=manifest(layers["digest"]),
    )


def _load(cache_dir: Path) -> dict[str, Blob] | None:
    facts = cache_dir / "layers.json"
    if not facts.exists():
        return None
    known: dict[str, str] = json.loads(facts.read_text())
    return {
        name: file_blob(cache_dir / name, OCI_LAYER if SLICES[name][1] else OCI_LAYER_TAR, Digest.parse(diff_id))
        for name, diff_id in known.items()
    }


def _build(cache_dir: Path) -> dict[str, Blob]:
    with ThreadPoolExecutor(max_workers=2) as pool:
        files = _files()
        slices = [(name, _take(files, size * MIB), packed) for name, (size, packed) in SLICES.items()]
        # The gzipped ones take longest: first.
        slices.sort(key=lambda job: not job[2])
        built = dict(pool.map(lambda job: (job[0], _pack(cache_dir / job[0], job[1], job[2])), slices))
    (cache_dir / "layers.json").write_text(json.dumps({name: str(blob.diff_id) for name, blob in built.items()}))
    return built


def _pack(path: Path, files: list[Path], packed: bool) -> Blob:
    plain = path.with_suffix(".tar") if packed else path
    with tarfile.open(plain, "w", format=tarfile.GNU_FORMAT) as archive:
        for name in files:
            archive.add(name, arcname=str(name).lstrip("/"), recursive=False, filter=_plain)
    tar = file_blob(plain, OCI_LAYER_TAR)
    if not packed:
        return tar
    with plain.open("rb") as source, path.open("wb") as file, gzip.GzipFile("", "wb", 1, file, mtime=0) as target:
        while piece := source.read(MIB):
            target.write(piece)
    plain.unlink()
    return file_blob(path, OCI_LAYER, tar.digest)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
    entry.mode &= 0o755  # no set-uid copies of the machine's programs in a snapshot directory
    return entry


def _files() -> Iterator[Path]:
    """Regular files of this machine, in an order that only their names decide."""
    for top in ("/usr/bin", "/usr/lib/python3", "/usr/lib/python3.11", "/usr/share", "/usr/lib"):
        for path in sorted(Path(top).rglob("*")):
            if not path.is_symlink() and path.is_file() and path.stat().st_size <= FILE_MAX:
                yield path


def _take(files: Iterator[Path], size: int) -> list[Path]:
    """Files of at least `size` bytes together."""
    taken, total = [], 0
    for path in files:
        taken.append(path)
        total += path.stat().st_size
        if total >= size:
            return taken
    raise RuntimeError(f"this machine has too few files under /usr to build layers from: {total} of {size} bytes")
