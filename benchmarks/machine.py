"""What the kernel says about processes and the machine: CPU seconds, memory, load, versions.

A process stands for itself and all that descend from it: nginx and others work in children.
"""

import mmap
import os
import platform
import re
import subprocess
import time
from pathlib import Path

PROC = Path("/proc")
TICKS = os.sysconf("SC_CLK_TCK")
TOUCHED = 1 << 30
RESET_PEAK = "5"  # proc(5), clear_refs


def family(pid: int) -> list[int]:
    """The process and its living descendants."""
    found = [pid]
    for parent in found:
        for task in (PROC / str(parent) / "task").glob("*/children"):
            found += map(int, task.read_text().split())
    return found


def cpu_seconds(pid: int) -> float:
    """User and system seconds of the family, of children that ended too. Resolution 1/TICKS."""
    # utime, stime, cutime, cstime: fields 14 to 17 of proc(5), counted behind the name, which may hold spaces.
    stats = ((PROC / str(member) / "stat").read_text().rpartition(")")[2].split() for member in family(pid))
    living = [[int(value) for value in fields[11:15]] for fields in stats]
    # A child that lives is in its own line, one that was waited for in its parent's: no second is counted twice.
    return sum(map(sum, living)) / TICKS


def resident_bytes(pid: int, field: str = "VmRSS") -> int:
    """Resident memory of the family now; with `VmHWM` its peak since `reset_peak`, each process's own."""
    pattern = re.compile(rf"^{field}:\s+(\d+) kB", re.MULTILINE)
    total = 0
    for member in family(pid):
        match = pattern.search((PROC / str(member) / "status").read_text())
        total += int(match[1]) << 10 if match else 0
    return total


def reset_peak(pid: int) -> None:
    """Let `VmHWM` start from what is resident now."""
    for member in family(pid):
        (PROC / str(member) / "clear_refs").write_text(RESET_PEAK)


def busy_seconds() -> float:
    """CPU seconds that the whole machine has spent since it started, time taken by its host included."""
    # user nice system idle iowait irq softirq steal, proc(5); guests are within user.
    fields = [int(value) for value in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


def own_seconds() -> float:
    """CPU seconds of this process and of every child that has ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def first_touch() -> float:
    """Seconds per GiB that memory takes at its first touch: some tenths, and up to 2.5 where a virtual machine's host
    takes freed memory back (measured). Every cache pays it for what it writes down: rows of cold pulls move with it.
    """
    began = time.monotonic()
    with mmap.mmap(-1, TOUCHED) as memory:
        for page in range(0, TOUCHED, mmap.PAGESIZE):
            memory[page] = 1
    return (time.monotonic() - began) * (1 << 30) / TOUCHED


def facts() -> dict[str, object]:
    """The machine, for the record."""
    cpu = re.search(r"^model name\s*: (.*)$", (PROC / "cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": cpu[1] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg(),
        "first_touch_s_per_gib": first_touch(),
    }


def version_of(command: str, flag: str) -> str:
    """What a program says of itself, in one line."""
    ended = subprocess.run([command, flag], capture_output=True, text=True, timeout=10, check=False)
    return (ended.stdout + ended.stderr).strip().partition("\n")[0]
