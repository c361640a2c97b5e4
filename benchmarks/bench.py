"""One run of the suite: where things are, how often to repeat, and the few ways in which clients are sent out."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.others import installed
from benchmarks.peers import Subject, Upstream
from benchmarks.process import CannotStart

MB = 1_000_000
MIB = 1 << 20
GIGABIT = 125 * MB  # bytes per second
LEAD_S = 0.2  # from sending a job to its start: a client process takes about 80 ms to be ready
CLIENT = (sys.executable, "-S", "-E", str(Path(__file__).with_name("client.py")))


class ClientFailed(Exception):
    """A client did not get what it asked for."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """How one fetch went. Times in seconds; `first_byte_s` and `seconds` from the request on."""

    ok: bool
    status: int
    received: int
    wired: int
    started_s: float
    first_byte_s: float | None
    seconds: float | None
    ended_s: float | None
    error: str


@dataclass(slots=True)
class Bench:
    """What every topic gets. `scale` shrinks sizes and counts for a quick run."""

    upstream: Upstream
    home: Path
    rounds: int
    quick: bool
    cistern_command: str
    say: Callable[[str], None]
    target: Subject | None = None
    with_others: bool = True
    _homes: int = 0

    def pick(self, full: int, quick: int) -> int:
        """A size or count for this kind of run."""
        return quick if self.quick else full

    @contextmanager
    def caches(self, *, alone: bool = False, warm: bool = True, others: bool = False) -> Iterator[list[Subject]]:
        """Fresh caches with empty folders: Cistern first, then nginx and docker-registry unless it is `alone`; with
        `others` every other peer that is found, and whatever runs at the `target`.
        """
        with tempfile.TemporaryDirectory(dir=self.home) as folder, ExitStack() as stack:
            home = Path(folder)
            home.chmod(0o755)  # some servers give up root
            found = [stack.enter_context(peers.cistern(home / "cistern", self.upstream, self.cistern_command))]
            if not alone:
                found.append(stack.enter_context(peers.docker_registry(home / "registry", self.upstream)))
                found.append(stack.enter_context(peers.nginx(home / "nginx", self.upstream)))
            if others and self.with_others:
                found += self._others(home, stack)
            if others and self.target is not None:
                found.append(self.target)
            if warm:
                self.warm_up(found)
            yield found

    def _others(self, home: Path, stack: ExitStack) -> list[Subject]:
        """The other peers that start, warmed up; one that does not is told and takes no row with it."""
        found: list[Subject] = []
        for name, start in installed().items():
            try:
                subject = stack.enter_context(start(home / name.replace(" ", "-"), self.upstream))
                self.warm_up([subject])
                found.append(subject)
            except (CannotStart, ClientFailed) as error:
                self.say(f"{name} is left out: {str(error)[-300:]}")
        return found

    def warm_up(self, subjects: Sequence[Subject]) -> None:
        """One small pull through each, so that imports, pools and buffers are there."""
        self.upstream.limit(None)
        image = self.upstream.image([8 * MIB])
        for subject in subjects:
            if not subject.takes_blobs:
                subject.get(subject.manifest(image["tag"]))
            self.pull(subject, image["blobs"][1])

    def pull(self, subject: Subject, digest: str, *, mode: str = "verify") -> Pulled:
        """One client, one blob. ClientFailed: not whole."""
        [pulled] = self.fleet(subject, [{"path": subject.blob(digest)}], mode=mode)
        return whole(subject, pulled)

    def fleet(
        self, subject: Subject, fetches: Sequence[dict[str, Any]], *, mode: str, until_s: float = 60.0
    ) -> list[Pulled]:
        """One process of clients, to their end or to `until_s`."""
        with self.started(subject, fetches, mode=mode, until_s=until_s) as fleet:
            return fleet()

    @contextmanager
    def started(
        self,
        subject: Subject,
        fetches: Sequence[dict[str, Any]],
        *,
        mode: str,
        until_s: float = 60.0,
        begin_at: float | None = None,
    ) -> Iterator[Callable[[], list[Pulled]]]:
        """Clients sent out, to start at `begin_at` (monotonic); call the result to wait for them. They end with the
        block.
        """
        begin_at = begin_at or time.monotonic() + LEAD_S
        job = {
            "host": subject.host,
            "port": subject.port,
            "tls": subject.tls,
            "mode": mode,
            "fetches": fetches,
            "begin_at": begin_at,
            "until_s": until_s,
        }
        process = _client(job)
        try:
            yield lambda: [Pulled(**report) for report in json.loads(process.communicate()[0])]
        finally:
            process.kill()
            process.communicate()

    def loop(self, subject: Subject, path: str, *, connections: int, seconds: float) -> tuple[int, float]:
        """Kept connections that ask for one path again and again: bytes received, CPU seconds of the subject."""
        job = {
            "host": subject.host,
            "port": subject.port,
            "tls": subject.tls,
            "mode": "read",
            "loop": path,
            "connections": connections,
            "seconds": seconds,
        }
        before = subject.cpu_seconds()
        output = _client(job).communicate()[0]
        spent = subject.cpu_seconds() - before
        return int(json.loads(output)["received"]), spent


def whole(subject: Subject, pulled: Pulled) -> Pulled:
    """The same, if it got everything."""
    if not pulled.ok:
        raise ClientFailed(f"{subject.name}: status {pulled.status}, {pulled.received} bytes, {pulled.error}")
    return pulled


def seconds_of(pulled: Pulled) -> float:
    """How long a whole pull took."""
    if pulled.seconds is None:
        raise ClientFailed(f"not finished: {pulled}")
    return pulled.seconds


def _client(job: dict[str, Any]) -> subprocess.Popen[str]:
    process = subprocess.Popen(CLIENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if process.stdin is None:
        raise ClientFailed("no way to tell the client its job")
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    return process
