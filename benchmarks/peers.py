"""The subjects: Cistern, its peers and the upstream, each a process that this suite starts, watches and ends.

Every cache gets an empty folder, one upstream and its own default way of working; nginx gets the settings under which
its lock collapses requests best (its default of 5 seconds would let every waiter through to the upstream).
"""

import base64
import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.certificates import Certificate
from benchmarks.figures import BARE, CISTERN, DIRECT, NGINX, PLAIN, REGISTRY, RELAY
from benchmarks.process import CannotStart, free_port, ready_line, started

REPOSITORY = "library/app"
UPSTREAM_NAME = "origin.test"
START_S = 20.0
DEFAULT_CISTERN = f"{shlex.quote(sys.executable)} -m proxy.cli"

NGINX_CONFIG = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 10000000; keepalive_timeout 150s;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
    proxy_cache_path {home}/cache levels=1:2 keys_zone=blobs:16m max_size=20g inactive=1d use_temp_path=off;
    upstream origin {{ server 127.0.0.1:{upstream}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096{tls};
        root {home}/files;
        location /v2/ {{
            proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_cache blobs; proxy_cache_key $uri; proxy_cache_valid 200 1d; proxy_max_temp_file_size 0;
            proxy_cache_lock on; proxy_cache_lock_timeout 10m; proxy_cache_lock_age 10m;
        }}
    }}
}}
"""
REGISTRY_CONFIG = """
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {home}/data}}, cache: {{blobdescriptor: inmemory}}}}
http: {{addr: "127.0.0.1:{port}"}}
proxy: {{remoteurl: "http://127.0.0.1:{upstream}"}}
"""


@dataclass(slots=True)
class Subject:
    """A running server. `prefix` is what stands before the repository in its paths; `process` is None for one that
    was not started here, whose CPU time and memory nobody knows; one that takes no blobs serves whole images only.
    """

    name: str
    process: subprocess.Popen[bytes] | None
    port: int
    prefix: str = ""
    host: str = "127.0.0.1"
    takes_blobs: bool = True
    tls: bool = False
    log: Path | None = None
    files: Path | None = None
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def pid(self) -> int:
        """CannotStart: it was not started here."""
        if self.process is None:
            raise CannotStart(f"{self.name} is not a process of this suite")
        return self.process.pid

    def blob(self, digest: str) -> str:
        return f"/v2/{self.prefix}{REPOSITORY}/blobs/{digest}"

    def manifest(self, reference: str) -> str:
        return f"/v2/{self.prefix}{REPOSITORY}/manifests/{reference}"

    def cpu_seconds(self) -> float:
        return machine.cpu_seconds(self.pid)

    def get(self, path: str, *, accept: str = "*/*") -> tuple[int, dict[str, str], bytes]:
        """One small request, whole: status, headers, body."""
        connection = HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request("GET", path, headers={"Accept": accept})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()


class Upstream(Subject):
    """The upstream, as the orchestrator uses it; pulled from, it is the subject `direct`."""

    def blobs(self, size: int, count: int = 1) -> list[str]:
        """New blobs, cold everywhere."""
        return [str(digest) for digest in self._control(f"blobs?size={size}&count={count}")]

    def image(self, sizes: Sequence[int]) -> dict[str, Any]:
        """A new image: `tag`, `digest`, `blobs` (config first)."""
        found: dict[str, Any] = self._control("image?" + "&".join(f"size={size}" for size in sizes))
        return found

    def limit(self, bytes_per_s: int | None, *, each: int | None = None) -> None:
        """Bandwidth of all connections together, and of each alone, from now on; None for no limit."""
        self._control(f"limit?rate={bytes_per_s or 0}&each={each or 0}")

    def trouble(self, kind: str = "") -> None:
        """Answer all by `503` or `429`, or nothing at all (`hang`), from now on; nothing: be well. Count anew."""
        self._control(f"trouble/{kind}")

    def asked(self) -> tuple[int, int]:
        """Requests for content, and pings, since the last `trouble`."""
        counts = self._control("asked")
        return counts.get("content", 0), counts.get("ping", 0)

    def sent(self, digest: str) -> tuple[int, int]:
        """How many GETs of a blob, and how many bytes of it, left so far."""
        requests, count = self._control("sent").get(digest, (0, 0))
        return requests, count

    def _control(self, command: str) -> Any:
        status, _, body = self.get(f"/-/{command}")
        if status != 200:
            raise CannotStart(f"the upstream refuses {command}: {status}")
        return json.loads(body)


@contextmanager
def upstream(home: Path, listen: str = "127.0.0.1:0") -> Iterator[Upstream]:
    """The upstream's process; caches of this machine reach it on the loopback wherever it listens."""
    with started([sys.executable, "-m", "benchmarks.upstream", "--listen", listen], home, "upstream") as (process, log):
        port = int(ready_line(process, log).rpartition("port=")[2])
        yield Upstream(DIRECT, process, port, log=log)


@contextmanager
def cistern(
    home: Path,
    origin: Upstream,
    command: str = DEFAULT_CISTERN,
    certificate: Certificate | None = None,
    cache: Path | None = None,
    workers: int = 1,
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Subject]:
    """Cistern by its command line, everything but addresses, upstream, `workers` and `settings` as by default."""
    home.mkdir(parents=True)
    config = home / "cistern.yaml"
    endpoint = {"endpoints": [{"url": f"http://127.0.0.1:{origin.port}"}], "plain_http": True}
    registry: dict[str, Any] = {"listen": "127.0.0.1:0", "workers": workers}
    if certificate is not None:
        registry["tls"] = {"certificate": str(certificate.chain), "key": str(certificate.key)}
    written = {
        "registry": registry,
        "admin": {"listen": "127.0.0.1:0"},
        "cache": {"directory": str(cache or home / "cache")},
        "upstreams": {UPSTREAM_NAME: endpoint},
        **(settings or {}),
    }
    config.write_text(json.dumps(written))  # YAML, as all JSON is
    words = [*shlex.split(command), "serve", "--config", str(config)]
    with started(words, home, "cistern") as (process, log):
        told = dict(word.split("=", 1) for word in ready_line(process, log).split() if "=" in word)
        port = int(told["registry"].rpartition(":")[2])
        yield Subject(
            CISTERN,
            process,
            port,
            f"{UPSTREAM_NAME}/",
            log=log,
            tls=certificate is not None,
            facts={"admin": told["admin"]},
        )


@contextmanager
def docker_registry(home: Path, origin: Upstream) -> Iterator[Subject]:
    """Distribution's registry in proxy mode."""
    home.mkdir(parents=True)
    config, port = home / "registry.yaml", free_port()
    config.write_text(REGISTRY_CONFIG.format(home=home, port=port, upstream=origin.port))
    with started(["docker-registry", "serve", str(config)], home, "registry") as (process, log):
        subject = Subject(REGISTRY, process, port, log=log)
        answering(subject)
        yield subject


@contextmanager
def nginx(home: Path, origin: Upstream, name: str = NGINX, certificate: Certificate | None = None) -> Iterator[Subject]:
    """nginx with `proxy_cache` and `proxy_cache_lock`; it also serves plain files from `files`."""
    (home / "files").mkdir(parents=True)
    home.chmod(0o755)
    config, port = home / "nginx.conf", free_port()
    user = "user root;\n" if Path("/proc/self").stat().st_uid == 0 else ""
    config.write_text(user + NGINX_CONFIG.format(home=home, port=port, upstream=origin.port, tls=_ssl_of(certificate)))
    words = ["nginx", "-p", str(home), "-c", str(config), "-e", str(home / "error.log")]
    with started(words, home, "nginx") as (process, log):
        subject = Subject(name, process, port, log=log, files=home / "files", tls=certificate is not None)
        answering(subject)
        yield subject


@contextmanager
def bare(home: Path, headers: Mapping[str, str], body: bytes) -> Iterator[Subject]:
    """A bare aiohttp handler that sends these headers and this body."""
    words = [sys.executable, "-m", "benchmarks.bare", "--headers", json.dumps(dict(headers))]
    words += ["--body", base64.b64encode(body).decode()]
    with started(words, home, "bare") as (process, log):
        yield Subject(BARE, process, int(ready_line(process, log).rpartition("port=")[2]), log=log)


@contextmanager
def bare_storm(home: Path, sizes: Mapping[str, int]) -> Iterator[Subject]:
    """A bare aiohttp handler that answers these paths with so many bytes, and refuses every other."""
    home.mkdir(parents=True)
    told = home / "sizes.json"
    told.write_text(json.dumps(dict(sizes)))
    with started([sys.executable, "-m", "benchmarks.bare_storm", str(told)], home, "bare") as (process, log):
        yield Subject(BARE, process, int(ready_line(process, log).rpartition("port=")[2]), log=log)


@contextmanager
def relay(home: Path, origin: Upstream) -> Iterator[Subject]:
    """One Python process that sends on, writes and hashes, and does nothing else."""
    words = [sys.executable, "-m", "benchmarks.relay", "--upstream", str(origin.port)]
    with started(words, home, "relay") as (process, log):
        yield Subject(RELAY, process, int(ready_line(process, log).rpartition("port=")[2]), log=log)


def _ssl_of(certificate: Certificate | None) -> str:
    if certificate is None:
        return ""
    return f" ssl; ssl_certificate {certificate.chain}; ssl_certificate_key {certificate.key}"


def plain_file(server: Subject, name: str, size: int) -> Subject:
    """Put a plain file of `size` bytes where nginx serves files; the same server under the name of that use."""
    if server.files is None:
        raise CannotStart(f"{server.name} serves no plain files")
    with (server.files / name).open("wb") as file:
        for _ in range(size >> 20):
            file.write(b"\x5a" * (1 << 20))
    return replace(server, name=PLAIN)


def answering(subject: Subject) -> None:
    """Wait until the subject answers `/v2/` (by TLS: until it listens). CannotStart: it does not in time."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and subject.process is not None and subject.process.poll() is None:
        with suppress(OSError, HTTPException):
            if subject.tls:
                socket.create_connection((subject.host, subject.port), 5).close()
            else:
                subject.get("/v2/")
            return
        time.sleep(0.05)
    words = subject.log.read_text()[-2000:] if subject.log is not None else ""
    raise CannotStart(f"{subject.name} did not start:\n{words}")
