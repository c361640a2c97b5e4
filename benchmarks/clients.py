"""What real clients ask for, as lists of fetches for a fleet: containerd 2, stargz and nydus. Pure.

Sources: containerd core/remotes/docker/fetcher.go (open-ended ranges, each closed after its chunk), stargz-snapshotter
fs/remote (a probe of two bytes, the footer, then what files need), nydus backend/registry (chunks by closed ranges).
"""

import random
from typing import Any

KIB, MIB = 1 << 10, 1 << 20
FOOTER = 51  # bytes at the end of a stargz layer
Fetches = list[dict[str, Any]]


def containerd(path: str, size: int, *, chunk: int, parallel: int, rate: float | None = None) -> Fetches:
    """A layer by `parallel` lanes of `bytes=N-`, each read for `chunk` bytes and then closed."""
    return [
        {
            "path": path,
            "range": f"bytes={start}-",
            "take": min(chunk, size - start),
            "lane": number % parallel,
            "rate": rate,
        }
        for number, start in enumerate(range(0, size, chunk))
    ]


def stargz(path: str, size: int, *, reads: int, seed: int = 1) -> Fetches:
    """The probe, the footer and the table of contents one after another, then many small reads in four lanes."""
    chance = random.Random(seed)
    probe = [(0, 1), (size - FOOTER, size - 1), (size - 256 * KIB, size - 1)]
    spans = [(0, (first, last)) for first, last in probe]
    for number in range(reads):
        length = chance.randrange(4 * KIB, 256 * KIB)
        first = chance.randrange(size - length)
        spans.append((number % 4, (first, first + length - 1)))
    return [_closed(path, first, last, lane) for lane, (first, last) in spans]


def nydus(path: str, size: int, *, reads: int, seed: int = 2) -> Fetches:
    """Chunks of a mebibyte in no order, in eight lanes."""
    chunks = [MIB * number for number in range(size // MIB)]
    random.Random(seed).shuffle(chunks)
    return [_closed(path, first, first + MIB - 1, number % 8) for number, first in enumerate(chunks[:reads])]


def _closed(path: str, first: int, last: int, lane: int) -> dict[str, Any]:
    return {"path": path, "range": f"bytes={first}-{last}", "lane": lane}


def useful(fetches: Fetches, size: int) -> int:
    """The bytes of a blob of `size` that these fetches need."""
    total = 0
    for fetch in fetches:
        first, _, last = str(fetch["range"]).removeprefix("bytes=").partition("-")
        total += fetch.get("take") or (int(last) + 1 if last else size) - int(first)
    return total
