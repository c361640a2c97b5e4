"""A stand-in for a server's admin address: canned JSON over a Unix socket or TCP, every request recorded.

For commands, which block: it lives in a thread of its own.
"""

import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: `target` is path and query as sent."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class CannedDesk:
    """`answers` are status and document by path; `where` is what `--admin` takes."""

    where: str = ""
    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def answer(self, path: str, document: Any, status: int = 200) -> None:
        self.answers[path] = (status, document)


class _UnixServer(socketserver.ThreadingUnixStreamServer):
    def get_request(self) -> tuple[Any, Any]:
        connection, _ = super().get_request()
        return connection, ("local", 0)


@contextmanager
def canned_desk(path: Path | None = None) -> Iterator[CannedDesk]:
    """A stand-in at a Unix socket, or without `path` on a loopback port."""
    desk = CannedDesk()

    class Answering(BaseHTTPRequestHandler):
        def _respond(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            asked = Asked(self.command, self.path, dict(self.headers.items()), self.rfile.read(length))
            desk.asked.append(asked)
            status, document = desk.answers.get(
                self.path.partition("?")[0], (404, {"errors": [{"message": "no such"}]})
            )
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _respond  # noqa: N815 - the names that http.server looks for

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's own name
            """Nothing: `asked` is the record."""

    if path is None:
        server: socketserver.BaseServer = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answering)
        desk.where = f"http://127.0.0.1:{server.server_address[1]}"  # type: ignore[index]  # a TCP server's is a pair
    else:
        server = _UnixServer(str(path), Answering)
        desk.where = f"unix:{path}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="canned desk")
    thread.start()
    try:
        yield desk
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
