"""Child processes of tests: servers whose output is watched, and commands that run to their end.

Every child leads a process group of its own, so that ending it ends what it started. Waiting is for a line or an exit,
never for a length of time. Works inside and outside an event loop: a session's servers outlive each test's loop.
"""

import asyncio
import atexit
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

Environment = Mapping[str, str]


class Process(Protocol):
    """What is needed of a `subprocess.Popen`; both streams are in `stdout`, and it leads a process group."""

    stdout: IO[bytes] | None
    returncode: int | None

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self, timeout: float | None = None) -> int: ...


Spawn = Callable[[Sequence[str], Environment | None, Path | None], Process]


def spawned(command: Sequence[str], env: Environment | None, cwd: Path | None) -> Process:
    """A child in the ordinary way."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(env),
        cwd=cwd,
        start_new_session=True,
    )


class Server:
    """A running server; its output lines (both streams) are collected by a thread. `stop` is idempotent."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        env: Environment | None = None,
        cwd: Path | None = None,
        spawn: Spawn = spawned,
    ) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self.command = [str(word) for word in command]
        self._process = spawn(self.command, env, cwd)
        self._reader = threading.Thread(target=self._read, name=f"output of {self.command[0]}", daemon=True)
        self._reader.start()
        atexit.register(self.stop, signal.SIGKILL)  # a run that is broken off leaves no server behind

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def ready(self, wanted: Callable[[str], bool], *, timeout_s: float = 10.0) -> str:
        """`wait_for` its first sign of life; a server that gives none is ended before the failure is raised."""
        try:
            return self.wait_for(wanted, timeout_s=timeout_s)
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def wait_for(self, wanted: Callable[[str], bool], *, since: int = 0, timeout_s: float = 10.0) -> str:
        """The first line from number `since` on that is `wanted`; blocks. Fails when the process ends without it."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for line in self.lines[since:]:
                    if wanted(line):
                        return line
                since = len(self.lines)
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    why = f"ended with {self.returncode}" if self._ended else f"said nothing such in {timeout_s} s"
                    raise AssertionError(f"{self.command[0]} {why}:\n" + "\n".join(self.lines[-20:]))
                self._changed.wait(left)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server itself; nothing if it has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended, and its parent has not told yet
                os.kill(self.pid, number)

    def wait(self, timeout_s: float = 10.0) -> int:
        """Block until it has ended; its exit code."""
        code = self._process.wait(timeout_s)
        self._close()
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM, *, grace_s: float = 5.0) -> int:
        """End it and everything in its group: by `number` first, after `grace_s` by SIGKILL."""
        self.send(number)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self._process.wait()
        self._close()
        assert self._process.returncode is not None
        return self._process.returncode

    def _close(self) -> None:
        atexit.unregister(self.stop)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._reader.join(5.0)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for raw in self._process.stdout:
            with self._changed:
                self.lines.append(raw.decode(errors="replace").rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended: its exit code, both streams as one text, and its duration in seconds."""

    code: int
    output: str
    seconds: float

    @property
    def succeeded(self) -> bool:
        return self.code == 0

    def check(self) -> "Outcome":
        """Itself if the command succeeded; else an AssertionError with its output."""
        assert self.succeeded, f"exit code {self.code} after {self.seconds:.1f} s:\n{self.output}"
        return self


async def run(
    *command: str | Path, env: Environment | None = None, cwd: Path | None = None, timeout_s: float = 60.0
) -> Outcome:
    """Run a command to its end. One that outlasts `timeout_s`, or whose caller leaves, is killed with its group."""
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(str(word) for word in command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment(env),
        cwd=cwd,
        start_new_session=True,
    )
    assert process.stdout is not None
    gathered = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while piece := await process.stdout.read(65536):
                gathered += piece
            await process.wait()
    except TimeoutError:
        gathered += f"\n(killed after {timeout_s} s)".encode()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        # The pipe's transport closes a turn after its end was read; without this a test's loop may end in between.
        process._transport.close()  # type: ignore[attr-defined]  # asyncio offers no public way to close it
    assert process.returncode is not None
    return Outcome(process.returncode, gathered.decode(errors="replace"), time.monotonic() - started)


def environment(extra: Environment | None) -> dict[str, str]:
    """A small environment for children: nothing of the developer's proxies, credentials or config reaches a test."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "HOME", "TMPDIR") if name in os.environ}
    kept.setdefault("PATH", "/usr/bin:/bin")
    kept["PATH"] += ":/usr/sbin:/sbin"
    return kept | dict(extra or {})
