"""Cistern processes without the start of Python: forked from one that has imported everything, and traced from then on.

Most of a short life is that start (0.45 of 0.6 s), and a sweep has a thousand lives. A child is a process like any
other: own group, own descriptors, its output in a pipe, SIGKILL for real.

    test  --socket-->  nursery  --fork-->  keeper  --fork-->  server
                                              \\----exec--->  strace, attached before the server's first step

The keeper is the parent of both: it tells the server's pid at its birth, and its exit code when both have ended.
"""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from tests.support.process import Environment, environment

ROOT = Path(__file__).parents[2]
MESSAGE_MAX = 1 << 16
ATTACHED_WITHIN_S = 20.0
PR_SET_PTRACER, ANYBODY = 0x59616D61, -1  # Yama lets a sibling attach only where the traced one allows it


class Forked:
    """One child, as far as `Server` needs a subprocess."""

    def __init__(self, output: int, status: int) -> None:
        self.stdout: IO[bytes] | None = os.fdopen(output, "rb")
        self._status = os.fdopen(status, "rb", buffering=0)
        self.pid = int(self._status.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        if (code := self._look(timeout)) is None:
            raise subprocess.TimeoutExpired("cistern", timeout or 0.0)
        return code

    def _look(self, within_s: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], within_s)[0]:
            self.returncode = int(self._status.readline() or -signal.SIGKILL)
            self._status.close()
        return self.returncode


class Nursery:
    """`with Nursery() as nursery:`; it ends with the block, and no server must be left by then."""

    def __enter__(self) -> "Nursery":
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment({"PYTHONPATH": str(ROOT)}),
                cwd=ROOT,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._process.wait(10.0)

    def launch(
        self,
        arguments: Sequence[str],
        tracer: Sequence[str],
        *,
        env: Environment | None = None,
        cwd: Path | None = None,
    ) -> Forked:
        """Run `cistern ARGUMENTS`, under `TRACER -p PID` if there is one."""
        told = {
            "arguments": list(arguments),
            "tracer": list(tracer),
            "env": environment(env),
            "cwd": str(cwd or Path.cwd()),
        }
        output, their_output = os.pipe()
        status, their_status = os.pipe()
        try:
            socket.send_fds(self._socket, [json.dumps(told).encode()], [their_output, their_status])
        finally:
            os.close(their_output)
            os.close(their_status)
        return Forked(output, status)


# In the nursery


def serve_births(given: socket.socket) -> None:
    """Fork a keeper for every message, until the test is gone."""
    import proxy.cli.local  # here, not in the test
    import proxy.serve  # noqa: F401 - so that a child finds it imported

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for the keepers
    while True:
        message, descriptors, _, _ = socket.recv_fds(given, MESSAGE_MAX, 2)
        if not message:
            return
        if not os.fork():
            given.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _keep(json.loads(message), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(told: dict[str, Any], output: int, status: int) -> NoReturn:
    """The keeper: bear the server, have it traced, and tell how it ends."""
    wait, go = os.pipe()
    pid = os.fork()
    if not pid:
        for descriptor in (go, status):
            os.close(descriptor)
        _live(told, output, wait)
    os.close(output)
    os.close(wait)
    tracer = None
    if told["tracer"]:
        tracer = subprocess.Popen([*told["tracer"], "-p", str(pid)], start_new_session=True)
        _await_tracer(pid)
    os.write(status, f"{pid}\n".encode())
    os.write(go, b"!")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if tracer is not None:
        tracer.wait()  # its last lines are written
    os.write(status, f"{code}\n".encode())
    os._exit(0)


def _await_tracer(pid: int) -> None:
    status, deadline = Path(f"/proc/{pid}/status"), time.monotonic() + ATTACHED_WITHIN_S
    while "TracerPid:\t0\n" in status.read_text():
        assert time.monotonic() < deadline, "nobody came to trace"
        time.sleep(0.001)  # no loop runs in this child, and the kernel tells nobody that a tracer has come


def _live(told: dict[str, Any], output: int, wait: int) -> NoReturn:
    """The server."""
    from proxy.__main__ import main as serve_here
    from proxy.cli import become, main

    become.become = serve_here  # in this very process, where all that it needs is imported already
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_long(ANYBODY), 0, 0, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["env"])
    os.read(wait, 1)
    for descriptor in (output, wait):
        os.close(descriptor)
    code = main(told["arguments"])
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    serve_births(socket.socket(fileno=int(sys.argv[1])))
