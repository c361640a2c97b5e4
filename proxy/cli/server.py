"""A running server as the commands see it: JSON over HTTP, by its control socket or its admin URL.

Standard library only: a command answers before a bigger client would be imported. Every failure is a CommandFailed that
says what to do next; the token goes nowhere but into its header.
"""

import http.client
import json
import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from proxy.cli.failures import WRONG_USE, CommandFailed
from proxy.cli.options import load_config

CONTROL: Final = "control.sock"
TIMEOUT_S: Final = 120.0  # longer than a refresh may take upstream: its own timeouts end it first
ANSWER_MAX: Final = 256 << 20
SOCKET_PATH_MAX: Final = 107  # sun_path of unix(7), without its closing zero


class SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(self.timeout)
        try:
            connected.connect(self._path)
        except BaseException:
            connected.close()
            raise
        self.sock = connected


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is asked: `where` is `unix:PATH` or its admin URL."""

    where: str

    @classmethod
    def find(cls, admin: str | None, config: Path | None) -> "Server":
        """The server that `admin` names, else the one of the config's cache directory."""
        if admin is None:
            return cls(f"unix:{load_config(config).cache.directory / CONTROL}")
        if admin.startswith("unix:") and admin != "unix:":
            return cls(admin)
        try:
            parts = urlsplit(admin)
            named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            named = False
        if not named or parts.username is not None or parts.path.strip("/") or parts.query:
            raise CommandFailed("--admin must be unix:PATH, or http://HOST:PORT and nothing more", WRONG_USE)
        return cls(admin.rstrip("/"))

    @property
    def is_socket(self) -> bool:
        return self.where.startswith("unix:")

    def get(self, path: str, query: Mapping[str, str] | None = None, *, also: tuple[int, ...] = ()) -> Any:
        """The JSON at `path`. `also` are statuses beside success whose body is an answer."""
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path, None, also)

    def post(self, path: str, body: Mapping[str, Any], *, within_s: float = TIMEOUT_S) -> Any:
        """Have something changed; the JSON answer."""
        return self._ask("POST", path, json.dumps(body).encode(), (), within_s)

    def _ask(
        self, method: str, target: str, body: bytes | None, also: tuple[int, ...], within_s: float = TIMEOUT_S
    ) -> Any:
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
            token = os.environ.get("CISTERN_ADMIN_TOKEN", "")
            if token and not self.is_socket:
                headers["Authorization"] = f"Bearer {_header_value(token)}"
        connection = self._connection(within_s)
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            status, data = answer.status, answer.read(ANSWER_MAX)
        except (OSError, http.client.HTTPException) as cause:
            raise CommandFailed(self._unreachable(cause)) from cause
        finally:
            connection.close()
        return _judged(self.where, status, data, also)

    def _connection(self, within_s: float) -> http.client.HTTPConnection:
        if self.is_socket:
            return SocketConnection(self.where.removeprefix("unix:"), within_s)
        parts = urlsplit(self.where)
        host = parts.hostname or ""
        if parts.scheme == "https":
            return http.client.HTTPSConnection(host, parts.port, timeout=within_s, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, parts.port, timeout=within_s)

    def _unreachable(self, cause: Exception) -> str:
        if isinstance(cause, PermissionError):
            return f"{self.where} belongs to another user: run this as the user the server runs as"
        if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            return f"no server at {self.where}: start it with `cistern serve`, or name another by --admin"
        if isinstance(cause, TimeoutError):
            return f"the server at {self.where} does not answer"
        if self.is_socket and len(os.fsencode(self.where.removeprefix("unix:"))) > SOCKET_PATH_MAX:
            return f"{self.where} is too long for a socket's name: name the admin address by --admin"
        why = cause.strerror if isinstance(cause, OSError) and cause.strerror else type(cause).__name__
        return f"the server at {self.where} cannot be asked: {why}"


def _header_value(token: str) -> str:
    if not token.isascii() or not token.isprintable():
        raise CommandFailed("CISTERN_ADMIN_TOKEN holds what cannot stand in a header", WRONG_USE)
    return token


def _judged(where: str, status: int, data: bytes, also: tuple[int, ...]) -> Any:
    """The JSON of a good answer; raises CommandFailed with the server's own words for any other."""
    try:
        document = json.loads(data)
    except ValueError as cause:
        raise CommandFailed(f"{where} answers {status} and no JSON: is that the admin address of Cistern?") from cause
    if 200 <= status < 300 or status in also:
        return document
    message = _message(document)
    if status in (401, 403) and message is None:
        message = "it takes changes over the control socket, or with CISTERN_ADMIN_TOKEN"
    raise CommandFailed(message or f"{where} answers {status}", WRONG_USE if status == 400 else 1)


def _message(document: Any) -> str | None:
    """The message of an error body: `{"errors": [{"message": …}]}` or `{"error": …}`."""
    found = document if isinstance(document, dict) else {}
    listed = found.get("errors")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict):
        found = {"error": listed[0].get("message")}
    told = found.get("error")
    return told if isinstance(told, str) and told else None
