"""A parent of processes that do as they are told: `python -m tests.support.family SERVERS LEAVE_S READY_S START_S`.

Each serving process waits for a byte on standard input before it says that it is ready, and is deaf to TERM from then
on if that byte is DEAF; USR1 ends it with code 0. The engine is ready at once, and says when it drains; without servers
it waits for a byte first.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.process import environment

ROOT = Path(__file__).parents[2]
STDIN = 0
READY, DEAF = b"r", b"d"


class Family:
    """One that runs. `lines` are those of its log so far, and what its processes print as `{"said": ...}`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process = process
        self._in = process.stdin
        self._out = process.stdout
        self.lines: list[dict[str, Any]] = []
        self._read = 0

    def tell(self, what: bytes) -> None:
        """Give bytes to whoever waits for one."""
        self._in.write(what)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def hears(self, is_meant: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next line of a kind; those before it are passed over, and stay in `lines`."""
        while True:
            while self._read < len(self.lines):
                line = self.lines[self._read]
                self._read += 1
                if is_meant(line):
                    return line
            self.lines.append(json.loads(await self._out.readline()))

    async def event(self, event: str, process: str | None = None) -> dict[str, Any]:
        return await self.hears(
            lambda line: line.get("event") == event and (process is None or line.get("process") == process)
        )

    async def started(self, process: str) -> int:
        return int((await self.event("process started", process))["pid"])

    async def said(self, word: str) -> int:
        """Wait until a process says a word; its pid."""
        return int((await self.hears(lambda line: line.get("said") == word))["pid"])

    async def ended(self) -> int:
        """Read to the end; the exit code."""
        async for line in self._out:
            self.lines.append(json.loads(line))
        return await self.process.wait()

    def pids(self, process: str) -> list[int]:
        """Every process that was started at a post."""
        return [
            line["pid"]
            for line in self.lines
            if line.get("event") == "process started" and line.get("process") == process
        ]


@asynccontextmanager
async def family(
    *, servers: int = 1, leave_s: float = 60.0, ready_s: float = 60.0, start_s: float = 60.0
) -> AsyncIterator[Family]:
    """A parent whose processes are started; killed with all that is left of it at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, str(servers), str(leave_s), str(ready_s), str(start_s),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment({"PYTHONPATH": str(ROOT)}),
        cwd=ROOT,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield Family(process)
    finally:
        with suppress(ProcessLookupError):  # nobody is left
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


# In the parent's process


def _say(word: str) -> None:
    os.write(1, json.dumps({"said": word, "pid": os.getpid()}).encode() + b"\n")


def _main(servers: int, leave_s: float, ready_s: float, start_s: float) -> int:
    from proxy.log import configure_loosely
    from proxy.processes.children import Inherited
    from proxy.processes.parent import Parent

    def engine(inherited: Inherited) -> int:
        signal.signal(signal.SIGUSR1, lambda *_: _say("draining"))
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        if not servers:
            os.read(STDIN, 1)
        inherited.say("engine")
        _say("engine")
        while True:
            signal.pause()

    def server(inherited: Inherited) -> int:
        if os.read(STDIN, 1) == DEAF:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
        inherited.say("server")
        _say("ready")
        while True:
            signal.pause()

    configure_loosely("json")
    return Parent(
        engine,
        [server] * servers,
        announce=lambda _: _say("announced"),
        failed=lambda _: 1,
        let_go=lambda: None,
        leave_s=lambda: leave_s,
        ready_s=ready_s,
        start_s=start_s,
    ).run()


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1]), *map(float, sys.argv[2:])))
