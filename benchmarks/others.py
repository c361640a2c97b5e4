"""Peers beyond Debian's two: Varnish, Squid, Distribution 3 and zot when they are installed, and any cache at a URL.

`make bench-peers` installs those that can be had. Each gets one upstream, an empty folder and settings under which it
keeps what it fetched and collapses requests as well as it can.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.figures import DISTRIBUTION, SQUID, VARNISH, ZOT
from benchmarks.peers import REGISTRY_CONFIG, Subject, Upstream, answering
from benchmarks.process import CannotStart, found, free_port, started

TARGET_WITHIN_S = 60.0
VARNISH_CONFIG = """
vcl 4.1;
backend origin {{ .host = "127.0.0.1"; .port = "{upstream}"; }}
sub vcl_recv {{ unset req.http.Cookie; return (hash); }}
sub vcl_backend_response {{ set beresp.ttl = 1d; set beresp.do_stream = true; }}
"""
SQUID_CONFIG = """
http_port 127.0.0.1:{port} accel defaultsite=origin no-vhost
cache_peer 127.0.0.1 parent {upstream} 0 no-query originserver name=origin
http_access allow all
cache_peer_access origin allow all
cache_dir aufs {home}/cache 20000 16 64
maximum_object_size 2 GB
minimum_object_size 0 KB
cache_mem 64 MB
collapsed_forwarding on
refresh_pattern . 1440 100% 1440 override-expire override-lastmod
access_log none
cache_log {home}/cache.log
cache_store_log none
pid_filename {home}/squid.pid
coredump_dir {home}
max_filedescriptors 8192
shutdown_lifetime 1 seconds
pinger_enable off
"""


@contextmanager
def varnish(home: Path, origin: Upstream) -> Iterator[Subject]:
    """Varnish with its store in a file. Its lock lets waiters join the running fetch as it streams."""
    home.mkdir(parents=True)
    config, port = home / "default.vcl", free_port()
    config.write_text(VARNISH_CONFIG.format(upstream=origin.port))
    words = ["varnishd", "-F", "-j", "none", "-n", str(home / "work"), "-a", f"127.0.0.1:{port}", "-f", str(config)]
    words += ["-s", f"file,{home}/store,8g", "-p", "thread_pool_min=20"]
    with started(words, home, "varnish") as (process, log):
        subject = Subject(VARNISH, process, port, log=log)
        answering(subject)
        yield subject


@contextmanager
def squid(home: Path, origin: Upstream) -> Iterator[Subject]:
    """Squid as an accelerator in one process, with collapsed forwarding."""
    (home / "cache").mkdir(parents=True)
    for folder in (home, home / "cache"):  # it gives up root before it writes
        folder.chmod(0o777)
    config, port = home / "squid.conf", free_port()
    config.write_text(SQUID_CONFIG.format(home=home, port=port, upstream=origin.port))
    with started(["squid", "-N", "-z", "-f", str(config)], home, "squid-folders") as (process, _):
        process.wait(30)
    with started(["squid", "-N", "-f", str(config)], home, "squid") as (process, log):
        subject = Subject(SQUID, process, port, log=log)
        answering(subject)
        yield subject


@contextmanager
def distribution(home: Path, origin: Upstream) -> Iterator[Subject]:
    """Distribution 3 in proxy mode."""
    home.mkdir(parents=True)
    config, port = home / "registry.yaml", free_port()
    config.write_text(REGISTRY_CONFIG.format(home=home, port=port, upstream=origin.port))
    with started(["registry", "serve", str(config)], home, "distribution") as (process, log):
        subject = Subject(DISTRIBUTION, process, port, log=log)
        answering(subject)
        yield subject


@contextmanager
def zot(home: Path, origin: Upstream) -> Iterator[Subject]:
    """zot with on-demand sync: it fetches whole images, so a blob is there once its manifest was asked for."""
    home.mkdir(parents=True)
    config, port = home / "zot.json", free_port()
    source = {
        "urls": [f"http://127.0.0.1:{origin.port}"],
        "onDemand": True,
        "tlsVerify": False,
        "content": [{"prefix": "**"}],
    }
    settings = {
        "storage": {"rootDirectory": str(home / "data")},
        "http": {"address": "127.0.0.1", "port": str(port)},
        "log": {"level": "error"},
        "extensions": {"sync": {"enable": True, "registries": [source]}},
    }
    config.write_text(json.dumps(settings))
    with started(["zot", "serve", str(config)], home, "zot") as (process, log):
        subject = Subject(ZOT, process, port, log=log, takes_blobs=False)
        answering(subject)
        yield subject


def target(url: str) -> Subject:
    """Any cache that runs already and has the suite's upstream as its own: a path in `url` stands before the
    repository. ValueError: no http:// URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"not an http:// URL: {url}")
    prefix = parts.path.removeprefix("/v2").strip("/")
    return Subject(parts.netloc, None, parts.port or 80, f"{prefix}/" if prefix else "", host=parts.hostname)


def await_target(subject: Subject, within_s: float = TARGET_WITHIN_S) -> None:
    """Wait until a target answers: a cache that asks its upstream when it starts can only start after ours.

    CannotStart: it does not answer in time.
    """
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with suppress(OSError, HTTPException):
            subject.get("/v2/")
            return
        time.sleep(0.2)
    raise CannotStart(f"nothing answers at http://{subject.name}/v2/ within {within_s:g} s")


Start = Callable[[Path, Upstream], AbstractContextManager[Subject]]
KNOWN: dict[str, tuple[str, Start]] = {
    VARNISH: ("varnishd", varnish),
    SQUID: ("squid", squid),
    DISTRIBUTION: ("registry", distribution),
    ZOT: ("zot", zot),
}


def installed() -> dict[str, Start]:
    """Those of the known peers whose program is found."""
    return {name: start for name, (command, start) in KNOWN.items() if found(command) is not None}
