"""Cache directories that are refused in words, and left as they were."""

import os
from pathlib import Path

import pytest

from proxy.errors import StoreRefused
from proxy.store.opened import open_disk
from tests.support.faulty import FaultyFilesystem
from tests.support.opening import open_once, whole_tree


async def test_a_newer_store_is_refused_untouched(tmp_path: Path) -> None:
    """What a later Cistern wrote is not mangled by this one (F40)."""
    await open_once(tmp_path)
    (tmp_path / "version").write_text("cistern store 3\n")
    before = whole_tree(tmp_path)
    with pytest.raises(StoreRefused, match=r"newer Cistern .*version 3, this one knows 2"):
        await open_once(tmp_path, "boot-2")
    assert whole_tree(tmp_path) == before


@pytest.mark.parametrize(
    "stamp",
    ["", "nonsense\n", "cistern store -1\n", "cistern store 0\n", "cistern store 02\n", "cistern store 99999999999\n"],
)
async def test_a_strange_stamp_is_refused_untouched(tmp_path: Path, stamp: str) -> None:
    """A stamp that says no version is refused, not guessed at."""
    await open_once(tmp_path)
    (tmp_path / "version").write_text(stamp)
    before = whole_tree(tmp_path)
    with pytest.raises(StoreRefused, match="not a version stamp"):
        await open_once(tmp_path)
    assert whole_tree(tmp_path) == before


async def test_somebody_elses_directory_is_refused_untouched(tmp_path: Path) -> None:
    """A directory with files and no stamp is not ours: nothing is added, changed or deleted."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "thesis.txt").write_text("years of it")
    before = whole_tree(tmp_path)
    with pytest.raises(StoreRefused, match=r"holds other files \(parts\)"):
        await open_once(tmp_path)
    assert whole_tree(tmp_path) == before


async def test_a_file_is_refused(tmp_path: Path) -> None:
    """A directory that is a file, or below one, is refused in words."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreRefused, match="is not a directory"):
        await open_once(tmp_path / "file")
    with pytest.raises(StoreRefused, match="cannot be used: Not a directory"):
        await open_once(tmp_path / "file" / "cache")


async def test_another_users_directory_is_refused(tmp_path: Path) -> None:
    """A directory that another user owns is not entered: they could swap its files below us."""
    root = tmp_path / "cache"
    root.mkdir()
    os.chown(root, 12345, 12345)
    with pytest.raises(StoreRefused, match="belongs to another user"):
        await open_once(root)
    assert list(root.iterdir()) == []


async def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """What the system says when the lock cannot be made is told, with the directory's name."""
    with pytest.raises(StoreRefused, match="cannot be used: Permission denied"):
        async with open_disk(tmp_path, files=ReadOnly()):
            pass


class ReadOnly(FaultyFilesystem):
    """Refuses to create anything, as a file system without write permission does (root may write anywhere)."""

    def open(self, path: Path, flags: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", str(path))
        return super().open(path, flags)


@pytest.mark.parametrize(
    "name",
    [
        "version",
        "lock",
        "boot",
        "records.sqlite",
        "records.sqlite-wal",
        "records.backup.sqlite",
        "records.backup.sqlite.new",
        "index.sqlite",
        "parts",
        "blobs",
        "blobs/sha256",
        "blobs/sha256/ab",
    ],
)
async def test_a_planted_link_is_refused(tmp_path: Path, name: str) -> None:
    """A link anywhere that the store would write through is refused, and its target untouched (V48)."""
    root, target = tmp_path / "cache", tmp_path / "target"
    await open_once(root)
    planted = root / name
    is_folder = planted.is_dir() or name.endswith("ab")
    if planted.is_dir():
        planted.rename(tmp_path / "moved")
    else:
        planted.unlink(missing_ok=True)
    target.mkdir() if is_folder else target.write_bytes(b"precious")
    planted.symlink_to(target)
    before = whole_tree(tmp_path)
    with pytest.raises(StoreRefused, match="link"):
        await open_once(root, "boot-2")
    assert whole_tree(tmp_path) == before


async def test_a_refusal_gives_the_lock_back(tmp_path: Path) -> None:
    """A start that failed halfway holds nothing: the next one works."""
    await open_once(tmp_path)
    files = FaultyFilesystem(at=3)
    with pytest.raises(StoreRefused, match="injected"):
        async with open_disk(tmp_path, files=files):
            pass
    await open_once(tmp_path)
