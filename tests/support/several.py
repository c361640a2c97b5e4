"""A server of several processes as a test sees it: which process is which, and who holds whose connections."""

import os
from pathlib import Path

from tests.support.cistern import CisternProcess

ESTABLISHED = "01"


def pid_of(served: CisternProcess, process: str) -> int:
    """The process that was started last as `engine` or `server N`."""
    started = [line for line in served.log_lines() if line["event"] == "process started"]
    return int(next(line["pid"] for line in reversed(started) if line["process"] == process))


async def pid_after(served: CisternProcess, process: str, before: int) -> int:
    """Wait for the process that follows the one with the pid `before`."""
    line = await served.logged(
        lambda line: line["event"] == "process started" and line["process"] == process and line["pid"] != before
    )
    return int(line["pid"])


def connections_of(pid: int, port: int) -> int:
    """How many clients' connections to `port` a process has."""
    sockets = {
        fields[9]
        for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
        if (fields := line.split())[3] == ESTABLISHED and int(fields[1].rpartition(":")[2], 16) == port
    }
    return len(sockets & {target.removeprefix("socket:[").removesuffix("]") for target in files_of(pid)})


def files_of(pid: int) -> list[str]:
    """The names of everything a process has open."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(entry))
        except OSError:  # closed meanwhile
            continue
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
