"""The cache directory: laid out, locked by one server, and stamped with a version, before anything is read from it.

    version   `cistern store 2`     a newer stamp is refused, nothing touched; an older store is upgraded in place
    lock      the owner's pid       held by flock, so a killed owner never keeps it; empty after a clean stop
    boot      the kernel's boot id  parts written under another one may have holes: they are dropped
    ballast   room for a start      given up when the disk is so full that this server could not start
    blobs/ parts/ quarantine/ records.sqlite records.backup.sqlite index.sqlite

A directory that is not plainly ours is refused in words, untouched: a wrong setting must not cost anybody's files.
"""

import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiofiles

from proxy.errors import StoreBusy, StoreRefused
from proxy.log import logger
from proxy.oci import HEX_LENGTH
from proxy.store.ballast import drop, make_room, take
from proxy.store.filesystem import (
    PRIVATE_FOLDER,
    Filesystem,
    entries,
    forget,
    replace_file,
    sync_folder,
)
from proxy.store.threads import Threads

log = logger("store")

# 1: blobs, parts, records, index. 2: quarantine, a log of changes, rows with a CRC: each brings itself up to date.
VERSION: Final = 2
STAMP: Final = re.compile(rb"cistern store ([1-9][0-9]{0,8})\n?")
STAMPED: Final = f"cistern store {VERSION}\n".encode()
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
FOLDERS: Final = ("blobs", *(f"blobs/{algorithm}" for algorithm in HEX_LENGTH), "parts", "quarantine")
OTHERS: Final = ("records.changes", "records.changes.new", "data.key", "data.key.new")
DATABASES: Final = ("records.sqlite", "records.backup.sqlite", "index.sqlite")
SIDE_FILES: Final = ("", "-wal", "-shm", "-journal", ".new", ".broken")
FILES: Final = (
    "version",
    "lock",
    "boot",
    "ballast",
    *OTHERS,
    *(name + side for name in DATABASES for side in SIDE_FILES),
)
# What a directory may hold that has no stamp yet: a crash of the very first start, and a fresh file system.
BEFORE_STAMP: Final = frozenset({"lock", "version.new", "lost+found"})
KEPT_PARTS: Final = frozenset({".part", ".map"})


@dataclass(slots=True)
class Directory:
    """A directory that is ours until `release`.

    `stopped_cleanly` is False when its last owner was killed; `rebooted` is True when it ran before another boot;
    `has_ballast`: room for a start may be put by.
    """

    root: Path
    lock: int
    stopped_cleanly: bool
    rebooted: bool
    has_ballast: bool = True

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def parts(self) -> Path:
        return self.root / "parts"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    def take_over(self, again: "Directory") -> None:
        """The same path was owned again, since another directory stands there now."""
        os.close(self.lock)
        self.lock = again.lock

    def release(self) -> None:
        """Give it up after a clean stop."""
        with suppress(OSError):
            os.ftruncate(self.lock, 0)
        os.close(self.lock)


async def own_directory(
    root: Path, threads: Threads, files: Filesystem, boot_id: str, *, ballast: bool = True
) -> Directory:
    """Make `root` ours; with `ballast` put by room for the next start. StoreBusy: another server has it. StoreRefused:
    it cannot be used, and why.
    """
    root = await threads.disk(_find, root)
    lock = await threads.disk(_lock, root, files, unclaimed=os.close)
    try:
        await threads.disk(make_room, root, files)
        stamp = await _read_small(root / "version", threads)
        previous_boot = await _read_small(root / "boot", threads)
        previous_owner = await _read_small(root / "lock", threads)
        _judge_stamp(root, stamp)
        rebooted = not boot_id or previous_boot != boot_id.encode()
        await threads.disk(_lay_out, root, files, stamp)
        await threads.disk(_settle_parts, root, files, boot_id, rebooted)
        await threads.disk(_sign, root, lock, files.pid or os.getpid())
        await threads.disk(take if ballast else drop, root, files)
    except BaseException:
        os.close(lock)
        raise
    return Directory(root, lock, not previous_owner, rebooted, ballast)


def read_boot_id() -> str:
    """This boot's id; empty where the kernel does not tell, which counts as another boot each time."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""


@contextmanager
def _refusing(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        where = f" ({cause.filename})" if cause.filename and str(cause.filename) != str(root) else ""
        raise StoreRefused(f"cache directory {root} cannot be used: {cause.strerror}{where}") from cause


def _find(root: Path) -> Path:
    """The directory, made if need be, and looked at without changing anything in it."""
    with _refusing(root):
        with suppress(FileExistsError):  # a file of that name is told below
            root.mkdir(PRIVATE_FOLDER, parents=True)
        root = root.resolve()  # the directory itself may be reached by a link: the config says so
        found = os.stat(root)
        if not stat.S_ISDIR(found.st_mode):
            raise StoreRefused(f"cache directory {root} is not a directory")
        if found.st_uid not in (os.geteuid(), 0):
            raise StoreRefused(f"cache directory {root} belongs to another user (uid {found.st_uid})")
        names = set(os.listdir(root))
        if "version" not in names and (strange := sorted(names - BEFORE_STAMP)):
            raise StoreRefused(
                f"cache directory {root} holds other files ({', '.join(strange[:3])}) and no version stamp of Cistern;"
                " name an empty directory"
            )
        _refuse_links(root)
    return root


def _refuse_links(root: Path) -> None:
    """Folders must be folders and files files: a planted link could lead a write elsewhere."""
    for name in FOLDERS:
        _refuse_unless(stat.S_ISDIR, "a folder", root / name)
    for name in FILES:
        _refuse_unless(stat.S_ISREG, "a plain file", root / name)
    for algorithm in HEX_LENGTH:
        for shard in entries(root / "blobs" / algorithm):
            if shard.is_symlink():
                raise StoreRefused(f"{shard.path} is a link, not a folder; it is not followed")


def _refuse_unless(is_kind: Callable[[int], bool], kind: str, path: Path) -> None:
    with suppress(FileNotFoundError):
        if not is_kind(os.lstat(path).st_mode):
            raise StoreRefused(f"{path} is not {kind}; a link is not followed")


def _lock(root: Path, files: Filesystem) -> int:
    with _refusing(root):
        lock = files.open(root / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "not known yet"
            os.close(lock)
            raise StoreBusy(f"cache directory {root} is in use by another server, pid {owner}") from cause
        except OSError:
            os.close(lock)
            raise
    return lock


async def _read_small(path: Path, threads: Threads) -> bytes | None:
    """A small file's content, None if it is not there."""
    try:
        async with aiofiles.open(path, "rb", opener=_open_no_link, executor=threads.disk_pool) as file:
            return await file.read(4096)
    except FileNotFoundError:
        return None


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)


def _judge_stamp(root: Path, stamp: bytes | None) -> None:
    if stamp is None:
        return
    match = STAMP.fullmatch(stamp)
    if match is None:
        raise StoreRefused(f"cache directory {root}: {root / 'version'} is not a version stamp of Cistern")
    if int(match[1]) > VERSION:
        raise StoreRefused(
            f"cache directory {root} was written by a newer Cistern"
            f" (store version {int(match[1])}, this one knows {VERSION}); nothing was touched"
        )


def _lay_out(root: Path, files: Filesystem, stamp: bytes | None) -> None:
    with _refusing(root):
        if stamp != STAMPED:
            # First of all: a crash right after leaves a directory that is known as ours, and that an older Cistern,
            # which would not know what this one writes, refuses.
            replace_file(files, root / "version", STAMPED)
            if stamp is not None:
                log.info("the store is upgraded in place", before=stamp.decode().strip(), version=VERSION)
        for name in FOLDERS:
            with suppress(FileExistsError):
                files.mkdir(root / name)
        for folder in (root, *(root / name for name in FOLDERS)):
            _keep_private(folder)
        sync_folder(files, root / "blobs")
        sync_folder(files, root)


def _keep_private(folder: Path) -> None:
    mode = os.stat(folder).st_mode
    if not mode & 0o077:
        return
    try:
        os.chmod(folder, PRIVATE_FOLDER)
    except PermissionError:  # a volume that belongs to root, given to us by an orchestrator
        log.warning("the cache directory is open to other users of this machine", directory=str(folder))


def _settle_parts(root: Path, files: Filesystem, boot_id: str, rebooted: bool) -> None:
    """Drop what cannot be resumed: all parts after a reboot (their pages may never have reached the disk)."""
    with _refusing(root):
        for entry in entries(root / "parts"):
            resumable = entry.is_file(follow_symlinks=False) and Path(entry.name).suffix in KEPT_PARTS
            if rebooted or not resumable:
                with suppress(IsADirectoryError, PermissionError):
                    forget(files, Path(entry.path))
        if rebooted:
            replace_file(files, root / "boot", boot_id.encode())


def _sign(root: Path, lock: int, pid: int) -> None:
    with _refusing(root):
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{pid}\n".encode(), 0)
