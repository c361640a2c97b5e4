"""A storm of clients in a process of its own: so many kept connections, requests at given moments, each one timed.

Reads one JSON job on standard input, prints one JSON result. A request takes the first idle connection, and a new one
only when none is idle: who waits for one answer delays no other client. One that the server closed while it was idle
is no failure of its request, which is sent again over a new one (RFC 9112 section 9.3.1). Times are from sending to
the last byte.
"""

import json
import selectors
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

BUFFER = 256 << 10


@dataclass(slots=True)
class Asked:
    """One request: what for, when it was sent, and how it ended (status 0: not at all)."""

    kind: str
    path: str
    at_s: float
    sent_s: float = 0.0
    seconds: float | None = None
    status: int = 0


@dataclass(slots=True)
class Connection:
    socket: socket.socket
    asked: Asked | None = None
    head: bytearray = field(default_factory=bytearray)
    left: int | None = None  # body bytes still to come; None while the head is not here
    was_idle: bool = True  # before this request


class Storm:
    """All connections, in one thread."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._port, self._accept = job["port"], job["accept"]
        self._until_s: float = job["until_s"]
        self._waiting = deque(sorted((Asked(*one) for one in job["requests"]), key=lambda asked: asked.at_s))
        self._idle: list[Connection] = []
        self._selector = selectors.DefaultSelector()
        self._running = 0
        self._began = 0.0
        self._buffer = bytearray(BUFFER)
        self.done: list[Asked] = []
        self.opened = 0
        for _ in range(job["connections"]):
            self._idle.append(self._open())

    def now(self) -> float:
        return time.monotonic() - self._began

    def run(self, begin_at: float) -> None:
        """Send every request at its moment; those not answered by `until_s` are told as such."""
        self._began = begin_at
        time.sleep(max(0.0, -self.now()))
        while (self._waiting or self._running) and self.now() < self._until_s:
            while self._waiting and self._waiting[0].at_s <= self.now():
                self._send(self._waiting.popleft())
            pause = min(0.2, max(0.0, self._waiting[0].at_s - self.now())) if self._waiting else 0.2
            for key, _ in self._selector.select(pause):
                self._receive(key.data)

    def _open(self) -> Connection:
        made = Connection(socket.create_connection(("127.0.0.1", self._port), timeout=10))
        made.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.socket.setblocking(False)
        self._selector.register(made.socket, selectors.EVENT_READ, made)
        self.opened += 1
        return made

    def _send(self, asked: Asked) -> None:
        self.done.append(asked)
        asked.sent_s = self.now()
        self._try(asked, self._idle.pop() if self._idle else None)

    def _try(self, asked: Asked, idle: Connection | None) -> None:
        try:
            connection = idle or self._open()
            request = f"GET {asked.path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAccept: {self._accept}\r\n\r\n"
            connection.socket.send(request.encode())
        except OSError:
            if idle is not None:
                self._try(asked, None)
            return
        connection.asked, connection.left, connection.was_idle = asked, None, idle is not None
        connection.head.clear()
        self._running += 1

    def _receive(self, connection: Connection) -> None:
        try:
            count = connection.socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._close(connection)
            return
        if connection.left is None:
            connection.head += self._buffer[:count]
            head, end, rest = bytes(connection.head).partition(b"\r\n\r\n")
            if not end or connection.asked is None:
                return
            lines = head.decode("latin-1").lower().split("\r\n")
            connection.asked.status = int(lines[0].split(" ")[1])
            lengths = [line for line in lines if line.startswith("content-length:")]
            connection.left = int(lengths[0].partition(":")[2]) - len(rest) if lengths else 0
        else:
            connection.left -= count
        if connection.left <= 0 and connection.asked is not None:
            connection.asked.seconds = self.now() - connection.asked.sent_s
            connection.asked = None
            self._running -= 1
            self._idle.append(connection)

    def _close(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
        if connection in self._idle:
            self._idle.remove(connection)
        if connection.asked is not None:
            self._running -= 1
            if connection.was_idle and not connection.head:
                self._try(connection.asked, None)


def main() -> None:
    """One job in, one result out."""
    job = json.loads(sys.stdin.readline())
    storm = Storm(job)
    storm.run(job["begin_at"])
    seen = [[asked.kind, asked.sent_s, asked.seconds, asked.status, asked.sent_s - asked.at_s] for asked in storm.done]
    print(json.dumps({"requests": seen, "opened": storm.opened}), flush=True)


if __name__ == "__main__":
    main()
