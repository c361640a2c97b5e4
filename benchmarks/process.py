"""Processes that the suite starts, watches and ends: servers of all kinds."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "benchmarks" / "out" / "bin"  # where `make bench-peers` puts what it builds
PATH = f"{TOOLS}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


class CannotStart(Exception):
    """A process gave no sign of life; the message ends with its last words."""


def found(command: str) -> str | None:
    """Where a program is, None if it is not installed."""
    return shutil.which(command, path=PATH)


@contextmanager
def started(words: Sequence[str], home: Path, name: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A child with a process group of its own, ended with all that it started."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / f"{name}.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=written,
            cwd=ROOT,
            env=environment(),
            process_group=0,
        )
    try:
        yield process, log
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def environment() -> dict[str, str]:
    """Nothing of the user's proxies and credentials reaches a subject."""
    return {
        "PATH": PATH,
        "PYTHONPATH": str(ROOT),
        "OTEL_TRACES_EXPORTER": "none",
    }


def ready_line(process: subprocess.Popen[bytes], log: Path) -> str:
    stream: IO[bytes] | None = process.stdout
    line = stream.readline().decode() if stream is not None else ""
    if " ready " not in line:
        raise CannotStart(f"{process.args!r} did not start:\n{log.read_text()[-2000:]}")
    return line


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
