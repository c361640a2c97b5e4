"""What must hold on a cache directory after any fault, while no server runs on it: one checker for every sweep."""

import re
from pathlib import Path

from proxy.oci import HEX_LENGTH
from tests.support.cistern import assert_store_true
from tests.support.faulty import plain_files

PARTS = re.compile(r"sha(256|384|512)-[0-9a-f]+(\.part|\.map|\.trail|\.[0-9]+\.put)?")


def assert_directory_whole(root: Path) -> None:
    """I2: every name under blobs/ is a digest, and its bytes hash to it. Nothing partial is visible, nothing is a link,
    nothing stands where it does not belong; what is unfinished stands under parts/ only.
    """
    assert_store_true(root)
    for path in plain_files(root / "blobs"):
        algorithm, shard, name = path.relative_to(root / "blobs").parts
        assert len(name) == HEX_LENGTH[algorithm], path
        assert name.startswith(shard), path
    assert not [path for path in root.rglob("*") if path.is_symlink()]
    strays = [path.name for path in (root / "parts").iterdir() if PARTS.fullmatch(path.name) is None]
    assert set(strays) <= {"health.probe", "capacity.probe"}, strays


def assert_swept(root: Path) -> None:
    """After a start: what cannot be resumed is gone."""
    left = {path.suffix for path in (root / "parts").iterdir()}
    assert left <= {".part", ".map", ".trail"}, left
