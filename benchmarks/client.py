"""A load client in a process of its own, cheap enough to run hundreds of connections beside what it measures.

Reads one JSON job on standard input, does it, prints one JSON result; plain sockets and one selector, no HTTP library.
A job is a list of `fetches`, each on a connection of its own, or a `loop`: so many kept connections that ask for one
path again and again. Fetches of one `lane` follow each other; one with `take` closes once it has that much, as
containerd 2 does with its open-ended ranges. How bytes are taken: `verify` reads and hashes as registry clients must,
`read` only copies them out of the kernel, `discard` lets the kernel drop them (for crowds, so that the clients are not
the limit).
"""

import hashlib
import json
import selectors
import socket
import ssl
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

BUFFER = 1 << 20
TURN = 4  # reads of one connection before the next one's turn
SLOW_BUFFER = 64 << 10  # a slow client's receive buffer: the rest must wait at the server
TCP_INFO_SIZE, BYTES_RECEIVED = 192, 128  # linux/tcp.h: tcpi_bytes_received of struct tcp_info
ACCEPT = "Accept: application/vnd.oci.image.manifest.v1+json, */*"
TICK_S = 0.02  # how often a slow client takes its share


@dataclass(slots=True)
class Fetch:
    """One GET. `at_s` is when it starts, `rate` how many bytes a second it takes; times are seconds from the start.
    `wired` are the bytes that had come over the wire by the end, read or not, heads included.
    """

    path: str
    at_s: float = 0.0
    rate: float | None = None
    range: str | None = None
    take: int | None = None
    lane: int | None = None
    wired: int = 0
    started_s: float = 0.0
    first_s: float | None = None
    ended_s: float | None = None
    status: int = 0
    received: int = 0
    length: int | None = None
    error: str = ""
    hasher: Any = field(default_factory=hashlib.sha256)

    @property
    def wanted(self) -> int:  # bytes of the body that are read before the connection is closed
        length = self.length or 0
        return length if self.take is None else min(length, self.take)

    def report(self, verify: bool) -> dict[str, Any]:
        whole = self.status in (200, 206) and self.length is not None and self.received == self.wanted
        if (
            whole
            and verify
            and self.take is None
            and self.range is None
            and not self.path.endswith(self.hasher.hexdigest())
        ):
            self.error = "the body does not hash to its digest"
        return {
            "ok": whole and not self.error,
            "status": self.status,
            "received": self.received,
            "wired": self.wired,
            "started_s": self.started_s,
            "first_byte_s": None if self.first_s is None else self.first_s - self.started_s,
            "seconds": None if self.ended_s is None else self.ended_s - self.started_s,
            "ended_s": self.ended_s,
            "error": self.error,
        }


class Connection:
    """One socket and the fetch it works on."""

    def __init__(self, fleet: "Fleet", fetch: Fetch) -> None:
        self.fleet = fleet
        self.fetch = fetch
        self.head = b""
        self.socket: socket.socket = socket.socket()
        if fetch.rate is not None and fetch.take is None:  # who closes early has buffers like anybody's
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
        self.socket.settimeout(10.0)
        self.socket.connect(fleet.address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if fleet.context is not None:
            self.socket = fleet.context.wrap_socket(self.socket)
        self.ask()

    def ask(self) -> None:
        host, port = self.fleet.address
        self.head = b""
        self.fetch.started_s = self.fleet.now()
        self.socket.settimeout(10.0)
        lines = [f"GET {self.fetch.path} HTTP/1.1", f"Host: {host}:{port}", ACCEPT]
        lines += [] if self.fetch.range is None else [f"Range: {self.fetch.range}"]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.socket.setblocking(False)

    def take(self, most: int) -> int:
        """Receive up to `most` bytes; 0 when nothing is there now. Raises ConnectionError at a premature end."""
        fetch = self.fetch
        if fetch.length is None:
            return self._take_head()
        wanted = min(BUFFER, most, fetch.wanted - fetch.received)
        flags = socket.MSG_TRUNC if self.fleet.mode == "discard" else 0
        try:
            count = self.socket.recv_into(self.fleet.buffer, wanted, flags)
        except (BlockingIOError, ssl.SSLWantReadError):
            return 0
        if count == 0:
            raise ConnectionError(f"cut after {fetch.received} of {fetch.length} bytes")
        self._count(count)
        return count

    def _take_head(self) -> int:
        try:
            data = self.socket.recv(4096)
        except (BlockingIOError, ssl.SSLWantReadError):
            return 0
        if not data:
            raise ConnectionError("closed without an answer")
        self.head += data
        head, end, rest = self.head.partition(b"\r\n\r\n")
        if end:
            lines = head.decode("latin-1").split("\r\n")
            self.fetch.status = int(lines[0].split(" ")[1])
            named = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            self.fetch.length = int(named["content-length"])
            self.fleet.buffer[: len(rest)] = rest
            if rest:
                self._count(len(rest), at_head=True)
        return len(data)

    def _count(self, count: int, *, at_head: bool = False) -> None:
        fetch = self.fetch
        if fetch.first_s is None:
            fetch.first_s = self.fleet.now()
        fetch.received += count
        if self.fleet.mode == "verify" or at_head:
            fetch.hasher.update(self.fleet.view[:count])

    @property
    def done(self) -> bool:
        return self.fetch.length is not None and self.fetch.received >= self.fetch.wanted

    @property
    def has_more(self) -> bool:
        """Whether TLS holds bytes that the kernel does not show any more."""
        return isinstance(self.socket, ssl.SSLSocket) and self.socket.pending() > 0

    def close(self) -> None:
        """End it, and note how much had come."""
        with suppress(OSError):
            told = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_SIZE)
            self.fetch.wired = int.from_bytes(told[BYTES_RECEIVED : BYTES_RECEIVED + 8], sys.byteorder)
        self.socket.close()


class Fleet:
    """All connections of one job, in one thread."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.address: tuple[str, int] = (job.get("host", "127.0.0.1"), job["port"])
        self.context = _trusting() if job.get("tls") else None
        self.mode: str = job["mode"]
        self.buffer = bytearray(BUFFER)
        self.view = memoryview(self.buffer)
        self._begin_at: float = job.get("begin_at") or time.monotonic()
        self._until_s: float = job.get("until_s", 60.0)
        self._selector = selectors.DefaultSelector()
        self._slow: list[Connection] = []

    def now(self) -> float:  # seconds since the job's start, which all processes of a measurement share
        return time.monotonic() - self._begin_at

    def run(self, fetches: list[Fetch]) -> None:
        """Do all fetches; those not done after `until_s` are left."""
        behind: dict[int | None, list[Fetch]] = {}
        for fetch in fetches:
            behind.setdefault(fetch.lane, []).append(fetch)
        first = [fetch for fetch in fetches if fetch.lane is None or behind[fetch.lane][0] is fetch]
        waiting = sorted(first, key=lambda fetch: fetch.at_s, reverse=True)
        running = 0
        while (waiting or running) and self.now() < self._until_s:
            while waiting and waiting[-1].at_s <= self.now():
                running += self._start(waiting.pop())
            pause = min(0.5, max(0.0, waiting[-1].at_s - self.now())) if waiting else 0.5
            for connection in self._ready(pause):
                if self._turn(connection):
                    running -= 1
                    lane = behind[connection.fetch.lane]
                    if connection.fetch.lane is not None and len(lane) > 1:
                        lane.pop(0)
                        running += self._start(lane[0])

    def loop(self, path: str, connections: int, seconds: float) -> int:
        """Ask on so many kept connections until `seconds` have passed, finish the bodies under way; bytes received."""
        total = 0
        running = [Connection(self, Fetch(path)) for _ in range(connections)]
        for connection in running:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        left = connections
        while left:
            for connection in self._ready(1.0):
                if not self._turn(connection, keep=True):
                    continue
                total += connection.fetch.received
                if connection.fetch.status != 200 or self.now() >= seconds:
                    self._selector.unregister(connection.socket)
                    connection.socket.close()
                    left -= 1
                else:
                    connection.fetch = Fetch(path)
                    connection.ask()
        return total

    def _start(self, fetch: Fetch) -> int:
        try:
            connection = Connection(self, fetch)
        except OSError as error:
            fetch.error = str(error)
            return 0
        if fetch.rate is not None:
            self._slow.append(connection)
        else:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        return 1

    def _ready(self, pause: float) -> list[Connection]:
        if self._slow:
            pause = min(pause, TICK_S)
            if not self._selector.get_map():
                time.sleep(pause)
        found = self._selector.select(pause) if self._selector.get_map() or not self._slow else []
        return [key.data for key, _ in found] + self._slow

    def _turn(self, connection: Connection, *, keep: bool = False) -> bool:
        """Let a connection receive its share; whether it is done with."""
        fetch = connection.fetch
        try:
            if fetch.rate is None:
                for _ in range(TURN):
                    if connection.done or not connection.take(BUFFER):
                        break
                while connection.has_more and not connection.done and connection.take(BUFFER):
                    pass
            else:
                due = int(fetch.rate * (self.now() - fetch.started_s)) - fetch.received
                while due > 0 and not connection.done and (count := connection.take(due)):
                    due -= count
        except (ConnectionError, KeyError, ValueError) as error:
            fetch.error = str(error)
        if not connection.done and not fetch.error:
            return False
        fetch.ended_s = self.now()
        if not keep:
            self._leave(connection)
        return True

    def _leave(self, connection: Connection) -> None:
        if connection in self._slow:
            self._slow.remove(connection)
        else:
            self._selector.unregister(connection.socket)
        connection.close()


def _trusting() -> ssl.SSLContext:
    """Trusts anybody: what is measured is the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def main() -> None:
    """One job in, one result out."""
    job = json.loads(sys.stdin.readline())
    fleet = Fleet(job)
    if "loop" in job:
        received = fleet.loop(job["loop"], job["connections"], job["seconds"])
        print(json.dumps({"received": received, "seconds": fleet.now()}), flush=True)
        return
    fetches = [Fetch(**asked) for asked in job["fetches"]]
    # Everybody has read its job before anybody starts.
    time.sleep(max(0.0, -fleet.now()))
    fleet.run(fetches)
    print(json.dumps([fetch.report(fleet.mode == "verify") for fetch in fetches]), flush=True)


if __name__ == "__main__":
    main()
