"""A cache directory opened once, and all that is in it."""

from pathlib import Path

from proxy.oci import Digest
from proxy.rules import Place
from proxy.store.opened import open_disk

DATA = b"a manifest"
DIGEST = Digest.of(DATA)
PLACE = Place("docker.io", "library/nginx")


async def open_once(root: Path, boot_id: str = "boot-1") -> None:
    async with open_disk(root, boot_id=boot_id):
        pass


def whole_tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every name below `root` with its mode and content."""
    paths = sorted(root.rglob("*"))
    return {str(p.relative_to(root)): (p.lstat().st_mode, p.read_bytes() if p.is_file() else b"") for p in paths}
