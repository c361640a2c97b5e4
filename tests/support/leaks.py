"""What a test must not leave behind: tasks, client sessions, child processes, part files; and secrets anywhere.

`Leaks` is built before a test's other fixtures and checked after them, so that what they clean up does not count.
"""

import asyncio
import gc
import os
import resource
import secrets
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.support.waiting import turns


class Leaks:
    """One test's ledger."""

    def __init__(self) -> None:
        self._children = children()
        self._cache_dirs: list[Path] = []

    def watch(self, cache_dir: Path) -> Path:
        """No part file may be left under `cache_dir` when the test ends; returns it."""
        self._cache_dirs.append(cache_dir)
        return cache_dir

    def allow_parts(self, cache_dir: Path) -> None:
        """This test keeps parts on purpose: a server was killed, and not started again."""
        self._cache_dirs.remove(cache_dir)

    def lasting(self, pid: int | None) -> None:
        """A process that was started during this test, and lives as long as the session."""
        self._children |= {pid} if pid is not None else set()

    def check(self) -> None:
        """Assert that no child process and no part file is left."""
        left = {pid: command_of(pid) for pid in children() - self._children}
        assert not left, f"child processes left running: {left}"
        parts = [path for folder in self._cache_dirs for path in folder.rglob("*.part*")]
        assert not parts, f"part files left: {[str(path) for path in parts]}"


def open_files() -> int:
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


async def check_loop() -> None:
    """Assert that this loop runs nothing but the caller, and that no client session is open."""
    await turns(3)  # callbacks of what has just ended
    tasks = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    assert not tasks, f"tasks left pending: {sorted(repr(task) for task in tasks)}"
    # Sockets and transports that were dropped unclosed warn when they are collected, and warnings are errors here.
    # The two young generations hold what was made since the last check (conftest sees to that): a full collection costs
    # ten times as much, in each of thousands of tests.
    gc.collect(1)
    kinds = [found for found in gc.get_objects() if type(found) is aiohttp.ClientSession]
    gc.freeze()
    open_sessions = [session for session in kinds if not session.closed]
    assert not open_sessions, f"client sessions left open: {open_sessions}"


def children() -> set[int]:
    """Process ids of this process's children, whichever thread started them."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").iterdir():
        try:
            found |= {int(pid) for pid in (thread / "children").read_text().split()}
        except FileNotFoundError:  # the thread ended meanwhile
            continue
    return found


def command_of(pid: int) -> str:
    """A process's command line, empty for one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


class Canaries:
    """Secrets made for one test, each unlike anything else; none may be found where everybody looks (H05)."""

    def __init__(self) -> None:
        self._secrets: dict[str, str] = {}

    def secret(self, name: str) -> str:
        """The secret called `name`; the same one each time."""
        return self._secrets.setdefault(name, f"canary-{name}-{secrets.token_hex(12)}")

    def add(self, name: str, value: str) -> None:
        """Guard a secret that was made elsewhere, such as a token or a signature."""
        self._secrets[name] = value

    def found_in(self, text: str | bytes) -> list[str]:
        """The names of the secrets that `text` gives away."""
        data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
        return [name for name, value in self._secrets.items() if value.encode() in data]

    def assert_absent(self, *texts: str | bytes) -> None:
        """Fail if any of `texts` (logs, errors, metrics, answers) gives a secret away."""
        assert self._secrets, "no canary was made: this check cannot fail"
        for text in texts:
            assert not (found := self.found_in(text)), f"secrets {found} stand in {text[:400]!r}"

    def assert_absent_below(self, folders: Iterable[Path]) -> None:
        """Fail if any file below `folders` holds a secret."""
        for folder in folders:
            for path in folder.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    assert not (found := self.found_in(path.read_bytes())), f"secrets {found} stand in {path}"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds at one moment; sizes in bytes (H06)."""

    resident_bytes: int
    peak_bytes: int
    files: int
    threads: int
    tasks: int

    @classmethod
    def here(cls) -> "Footprint":
        """This process's footprint; its tasks are those of the running loop."""
        found = cls.of(os.getpid())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return cls(found.resident_bytes, peak, found.files, threading.active_count(), len(asyncio.all_tasks()))

    @classmethod
    def of(cls, pid: int) -> "Footprint":
        """Another process's footprint, from /proc; its tasks are not known (0)."""
        home = Path(f"/proc/{pid}")
        status = dict(line.split(":", 1) for line in (home / "status").read_text().splitlines())
        sizes = [int(status[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM")]
        return cls(sizes[0], sizes[1], len(list((home / "fd").iterdir())), int(status["Threads"]), 0)
