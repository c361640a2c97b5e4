"""Ways in which a stored file goes bad, and how to hide that from a look at its time."""

import os
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], None]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def zero_a_block(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 3)
        file.write(bytes(min(4096, path.stat().st_size // 3)))


def swap(path: Path) -> None:
    """Another file of the same length comes to its place."""
    other = path.with_name(path.name + ".other")
    other.write_bytes(os.urandom(path.stat().st_size))
    other.replace(path)


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


KINDS: dict[str, Damage] = {
    "bit flip": flip_a_bit,
    "cut short": cut_short,
    "empty": empty,
    "zeroed block": zero_a_block,
    "swapped file": swap,
    "longer": append,
}


def lose_index(cache_dir: Path) -> None:
    for path in cache_dir.glob("index.sqlite*"):
        path.unlink()


def silently(damage: Damage, path: Path) -> None:
    """Damage in place, with the time of change put back: as rot does, and not as a program."""
    before = path.stat()
    damage(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
