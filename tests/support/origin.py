"""The honest upstream: Debian's docker-registry on loopback, its storage filled with images, its access log read.

`Origin` is the process; it may be stopped and started again on the same port. `View` is one test's window on the log.
"""

import asyncio
import os
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from proxy.oci import Digest
from tests.support.images import Blob, Image
from tests.support.process import Server, run

CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: false}}, fields: {{}}}}
storage:
  filesystem: {{rootdirectory: {root}, maxthreads: 100}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""
ACCESS = re.compile(
    r'\S+ - \S+ \[[^\]]+\] "(?P<method>[A-Z]+) (?P<target>\S+) HTTP/[\d.]+" (?P<status>\d+) (?P<sent>\d+)'
)
LISTENING = re.compile(r"listening on 127\.0\.0\.1:(?P<port>\d+)")


@dataclass(frozen=True, slots=True)
class Access:
    """One line of the access log. The registry logs no Range header: status 206 tells that there was one."""

    method: str
    path: str
    query: str
    status: int
    sent_bytes: int


class Origin:
    """A docker-registry in a directory of its own. `users` (name -> password) turns basic authentication on; `auth` is
    another `auth` section of its config.
    """

    def __init__(self, directory: Path, *, users: dict[str, str] | None = None, auth: str = "") -> None:
        self.directory = directory
        self.storage = directory / "storage"
        self._users = users or {}
        self._section = auth
        self._server: Server | None = None
        self._lines: list[str] = []  # of the processes before this one
        self._port = 0
        self._marks = 0

    @property
    def address(self) -> str:
        """HOST:PORT, the same after a restart."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def pid(self) -> int | None:
        return self._server.pid if self._server is not None else None

    def start(self) -> None:
        """Start it and wait until it listens; blocks for some tens of milliseconds."""
        assert self._server is None, "the origin runs already"
        self.storage.mkdir(parents=True, exist_ok=True)
        config = self.directory / "config.yml"
        config.write_text(CONFIG.format(root=self.storage, port=self._port, auth=self._auth()))
        server = Server(["docker-registry", "serve", config])
        match = LISTENING.search(server.ready(lambda line: LISTENING.search(line) is not None))
        assert match is not None
        self._server = server
        self._port = int(match["port"])

    def stop(self) -> None:
        """End it at once: connections break, the port refuses."""
        if self._server is not None:
            self._server.stop(grace_s=0.5)
            self._lines += self._server.lines
            self._server = None

    def _auth(self) -> str:
        if not self._users:
            return self._section
        return f"auth: {{htpasswd: {{realm: origin, path: {self.directory / 'htpasswd'}}}}}"

    async def set_passwords(self) -> None:
        """Write the htpasswd file (bcrypt, lowest cost); before `start`, when there are users."""
        self.directory.mkdir(parents=True, exist_ok=True)
        outcomes = [await run("htpasswd", "-nbBC", "4", name, password) for name, password in self._users.items()]
        (self.directory / "htpasswd").write_text("".join(outcome.check().output.strip() + "\n" for outcome in outcomes))

    # Content

    def add(self, repository: str, tag: str | None, image: Image) -> None:
        """Put an image into the storage, as a push would leave it; real layers are hard links. May run meanwhile."""
        for blob in (*image.all_blobs(), *image.all_manifests()):
            self._keep(blob)
        home = self.storage / "docker/registry/v2/repositories" / repository
        for blob in image.all_blobs():
            _link(home / "_layers", blob.digest)
        for blob in image.all_manifests():
            _link(home / "_manifests/revisions", blob.digest)
        if tag is not None:
            tags = home / "_manifests/tags" / tag
            _link(tags / "index", image.digest)
            _write(tags / "current/link", str(image.digest).encode())

    def _keep(self, blob: Blob) -> None:
        path = self.blob_path(blob.digest)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(blob.source, Path):
            try:
                os.link(blob.source, path)
            except OSError:  # another file system
                shutil.copyfile(blob.source, path)
        else:
            _write(path, blob.source)

    def blob_path(self, digest: Digest) -> Path:
        """Where the registry keeps a blob's bytes; a test may spoil a file that is not hard-linked."""
        return (
            self.storage / "docker/registry/v2/blobs" / digest.algorithm / digest.encoded[:2] / digest.encoded / "data"
        )

    # The access log

    def accesses(self) -> list[Access]:
        """Every request so far that has reached the log. `View.requests` waits for those still on their way."""
        lines = self._lines + (self._server.lines if self._server is not None else [])
        return [access for line in lines if (access := parse(line)) is not None and "barrier=" not in access.query]

    def settle(self) -> None:
        """Block until what was answered before is in the log: a line is written right after its answer's last byte."""
        if self._server is None:
            return
        for _ in range(3):  # each on a connection of its own, so that a handler that lags has had its turn
            self._marks += 1
            self._pass(self._server, f"/v2/?barrier={self._marks} ")

    def _pass(self, server: Server, target: str) -> None:
        with urllib.request.build_opener(_Quiet).open(self.url + target.strip(), timeout=5) as answer:
            answer.read()
        server.wait_for(lambda line: target in line)


class _Quiet(urllib.request.HTTPErrorProcessor):
    """A 401 is an answer too: the barrier only wants its line in the log."""

    def http_response(self, request: urllib.request.Request, response: Any) -> Any:
        return response


class View:
    """What one test saw the origin asked: the log from the moment the test began, or from `forget`."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._start = len(origin.accesses())

    @property
    def address(self) -> str:
        return self.origin.address

    @property
    def url(self) -> str:
        return self.origin.url

    async def forget(self) -> None:
        """Count from here on."""
        await asyncio.to_thread(self.origin.settle)
        self._start = len(self.origin.accesses())

    async def requests(self, wanted: Callable[[Access], bool] = lambda _: True) -> list[Access]:
        """Requests since the start of the view that are `wanted`."""
        await asyncio.to_thread(self.origin.settle)
        return [access for access in self.origin.accesses()[self._start :] if wanted(access)]

    async def blob_requests(self) -> list[Access]:
        """GETs of blobs, whole or ranged; a HEAD moves no content."""
        return await self.requests(lambda access: access.method == "GET" and "/blobs/" in access.path)

    async def requests_for(self, digest: Digest, method: str = "GET") -> int:
        """How often one digest was asked for with `method`."""
        wanted = await self.requests(lambda a: a.method == method and a.path.endswith(str(digest)))
        return len(wanted)

    async def bytes_for(self, digest: Digest) -> int:
        """How many body bytes of one blob the origin sent."""
        wanted = await self.requests(lambda a: a.method == "GET" and a.path.endswith(str(digest)))
        return sum(access.sent_bytes for access in wanted)

    async def fetched_once(self, blobs: Iterable[Blob]) -> None:
        """Assert that each of `blobs` left the origin exactly once, whole."""
        gets = await self.blob_requests()
        for blob in blobs:
            mine = [access for access in gets if access.path.endswith(str(blob.digest))]
            assert [(a.status, a.sent_bytes) for a in mine] == [(200, blob.size)], f"{blob.descriptor}: {mine}"

    def stop(self) -> None:
        self.origin.stop()

    def start(self) -> None:
        self.origin.start()


def parse(line: str) -> Access | None:
    """A line of the combined log format, None for any other line."""
    match = ACCESS.match(line)
    if match is None:
        return None
    target = urlsplit(match["target"])
    return Access(match["method"], unquote(target.path), target.query, int(match["status"]), int(match["sent"]))


def scratch() -> Path:
    """A new directory with a short name: Unix sockets have room for 107 characters."""
    return Path(tempfile.mkdtemp(prefix="cst"))


def _link(folder: Path, digest: Digest) -> None:
    _write(folder / digest.algorithm / digest.encoded / "link", str(digest).encode())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.write_bytes(data)
    new.replace(path)
