"""The cache directory: made, locked, stamped, kept over restarts, and kept in order."""

import asyncio
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.errors import StoreBusy
from proxy.store.ballast import BALLAST
from proxy.store.base import Link
from proxy.store.opened import open_disk
from tests.support.faulty import FaultyFilesystem
from tests.support.opening import DATA, DIGEST, PLACE, open_once, whole_tree
from tests.support.volume import volume

OWNER = """
import asyncio, sys
from pathlib import Path
from proxy.store.opened import open_disk

async def main():
    async with open_disk(Path(sys.argv[1])) as disk:
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def start_owner(root: Path) -> "subprocess.Popen[str]":
    """Another process that owns `root`, once this returns."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(root)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "ready\n"
    return owner


def end(owner: "subprocess.Popen[str]") -> None:
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert owner.stdout is not None
    owner.stdout.close()


async def test_a_new_directory_is_private(tmp_path: Path) -> None:
    """Every folder is 0700 and every file 0600, whatever the umask, and the databases too (V26)."""
    root = tmp_path / "deep" / "cache"
    before = os.umask(0)
    try:
        async with open_disk(root) as disk:
            await disk.blobs.put(DATA, DIGEST)
            await disk.records.save_links([Link(PLACE, DIGEST, "m", 1)])
            await disk.records.backup()
            modes = {str(p.relative_to(root)): stat.S_IMODE(p.stat().st_mode) for p in (root, *root.rglob("*"))}
    finally:
        os.umask(before)
    assert {"records.sqlite", "records.sqlite-wal", "records.backup.sqlite", "index.sqlite", "lock"} <= set(modes)
    wrong = {name: oct(mode) for name, mode in modes.items() if mode != (0o700 if (root / name).is_dir() else 0o600)}
    assert wrong == {}


async def test_an_open_directory_is_closed_to_others(tmp_path: Path) -> None:
    """An empty directory that others could enter is taken, and made ours alone."""
    os.chmod(tmp_path, 0o755)
    await open_once(tmp_path)
    assert stat.S_IMODE(os.stat(tmp_path).st_mode) == 0o700


async def test_what_was_kept_is_here_after_a_restart(tmp_path: Path) -> None:
    """Blobs and records outlive the process."""
    async with open_disk(tmp_path) as disk:
        await disk.blobs.put(DATA, DIGEST)
        await disk.records.save_links([Link(PLACE, DIGEST, "m", len(DATA))])
    async with open_disk(tmp_path) as disk:
        assert await disk.blobs.stat(DIGEST) == len(DATA)
        assert await disk.records.link(PLACE, DIGEST) == Link(PLACE, DIGEST, "m", len(DATA))


async def test_a_second_server_is_refused_by_pid(tmp_path: Path) -> None:
    """While one process has the directory another is refused, naming it; killed, it holds nothing (F26)."""
    owner = await asyncio.to_thread(start_owner, tmp_path)
    try:
        with pytest.raises(StoreBusy, match=rf"in use by another server, pid {owner.pid}\b"):
            await open_once(tmp_path)
    finally:
        await asyncio.to_thread(end, owner)
    async with open_disk(tmp_path) as disk:
        assert not disk.directory.stopped_cleanly
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    async with open_disk(tmp_path) as disk:
        assert disk.directory.stopped_cleanly


async def test_a_refused_server_leaves_the_owner_alone(tmp_path: Path) -> None:
    """Being refused changes nothing, also not the name of the owner."""
    async with open_disk(tmp_path):
        before = whole_tree(tmp_path)
        for _ in range(2):
            with pytest.raises(StoreBusy, match=str(os.getpid())):
                await open_once(tmp_path)
        assert whole_tree(tmp_path) == before


async def test_parts_outlive_a_kill_but_not_a_reboot(tmp_path: Path) -> None:
    """Parts of this boot are kept; those of another one may have holes, and go."""
    await open_once(tmp_path, "boot-1")
    part = tmp_path / "parts" / f"sha256-{'a' * 64}.part"
    part.write_bytes(b"half")
    async with open_disk(tmp_path, boot_id="boot-1") as disk:
        assert not disk.directory.rebooted
        assert part.read_bytes() == b"half"
    async with open_disk(tmp_path, boot_id="boot-2") as disk:
        assert disk.directory.rebooted
        assert list(disk.parts.iterdir()) == []


async def test_an_untold_boot_counts_as_another(tmp_path: Path) -> None:
    """Where the kernel tells no boot id, parts are dropped at each start."""
    await open_once(tmp_path, "")
    (tmp_path / "parts" / "x.part").write_bytes(b"half")
    await open_once(tmp_path, "")
    assert list((tmp_path / "parts").iterdir()) == []


async def test_what_cannot_be_resumed_is_swept(tmp_path: Path) -> None:
    """Leftovers that are no part, planted links among them, are gone after a start; a link's target is not."""
    await open_once(tmp_path)
    parts, target = tmp_path / "parts", tmp_path.with_name("target")
    target.write_bytes(b"precious")
    for name in ("sha256-x.0.put", "stray"):
        (parts / name).write_bytes(b"half")
    (parts / "planted.part").symlink_to(target)
    (parts / "kept.part").write_bytes(b"half")
    await open_once(tmp_path)
    assert [path.name for path in parts.iterdir()] == ["kept.part"]
    assert target.read_bytes() == b"precious"


async def test_a_fresh_file_system_is_taken(tmp_path: Path) -> None:
    """The root of a new file system, and what a crash of the very first start leaves, do not count as files."""
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lock").touch()
    (tmp_path / "version.new").write_text("cist")
    await open_once(tmp_path)
    assert (tmp_path / "version").read_text() == "cistern store 2\n"


async def test_a_full_disk_costs_the_ballast_and_no_more(short_tmp: Path) -> None:
    """Room for the next start is put by; on a full disk it goes first, then what is worth nothing, never content."""
    with volume(short_tmp / "disk", "8m") as disk:
        root, others = disk.root / "cache", disk.root / "others"
        async with open_disk(root, boot_id="boot-1") as opened:
            await opened.blobs.put(DATA, DIGEST)
        for name in ("parts/sha256-aa.part", "quarantine/sha256-bb.1"):
            (root / name).write_bytes(bytes(300_000))
        disk.fill(others, 0)
        await open_once(root)
        assert not (root / "ballast").exists()
        assert (root / "parts/sha256-aa.part").exists()
        others.unlink()
        disk.fill(others, 0)
        await open_once(root)
        assert not (root / "parts/sha256-aa.part").exists()
        assert not (root / "quarantine/sha256-bb.1").exists()
        others.unlink()
        await open_once(root)
        assert (root / "ballast").stat().st_blocks * 512 == BALLAST
        async with open_disk(root, boot_id="boot-1") as opened:
            assert await opened.blobs.stat(DIGEST) == len(DATA)


async def test_the_directory_itself_may_be_reached_by_a_link(tmp_path: Path) -> None:
    """The configured path is the operator's own word: a link to a bigger disk is followed."""
    (tmp_path / "big").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "big")
    await open_once(tmp_path / "cache")
    assert (tmp_path / "big" / "version").exists()


async def test_housekeeping_runs_by_the_clock_it_is_given(tmp_path: Path) -> None:
    """Records are backed up, and last uses written, whenever the pause between them ends."""
    gates: dict[float, asyncio.Semaphore] = {30.0: asyncio.Semaphore(0), 600.0: asyncio.Semaphore(0)}
    waiting: dict[float, asyncio.Event] = {seconds: asyncio.Event() for seconds in gates}

    async def pause(seconds: float) -> None:
        waiting[seconds].set()
        await gates[seconds].acquire()

    async def turn(seconds: float) -> None:
        await waiting[seconds].wait()
        waiting[seconds].clear()
        gates[seconds].release()
        await waiting[seconds].wait()

    async with open_disk(tmp_path, pause=pause) as disk:
        await disk.records.save_links([Link(PLACE, DIGEST, None, 1)])
        assert not (tmp_path / "records.backup.sqlite").exists()
        await turn(600.0)
        assert (tmp_path / "records.backup.sqlite").exists()
        await disk.index.touch([DIGEST], 5.0)
        await turn(30.0)
        assert await disk.index.last_used([DIGEST]) == {DIGEST: 5.0}


async def test_a_disk_that_refuses_housekeeping_is_told_and_tried_again(tmp_path: Path) -> None:
    """A failed backup is one line in the log; the next one works, and the server goes on."""
    go, paused = asyncio.Semaphore(0), asyncio.Event()

    async def pause(seconds: float) -> None:
        if seconds < 600:
            await asyncio.Event().wait()
        paused.set()
        await go.acquire()

    files = FaultyFilesystem()
    async with open_disk(tmp_path, files=files, pause=pause) as disk:
        await disk.records.save_links([Link(PLACE, DIGEST, None, 1)])
        files.at, files.sticky = len(files.steps) + 1, True
        with capture_logs() as lines:
            for at in (files.at, 0):
                await paused.wait()
                paused.clear()
                files.at = at
                go.release()
            await paused.wait()
        assert [line["event"] for line in lines] == ["the disk refuses housekeeping; tried again later"]
        assert (tmp_path / "records.backup.sqlite").exists()
