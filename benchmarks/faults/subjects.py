"""Caches under fault, each a process with an empty folder and its own default way of working.

Cistern keeps every default but one: `tags.fresh_for` is 0s, so that each pull checks its tag, as docker-registry's do.
"""

import asyncio
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.figures import CISTERN, REGISTRY
from proxy.oci import Digest
from tests.faults.playing import CALM_S
from tests.faults.stage import Stage
from tests.support.cistern import CisternProcess, stored_path
from tests.support.origin import LISTENING
from tests.support.process import Server
from tests.support.proxy import UPSTREAM

WAIT_S = 25.0  # of the time that a row lets pass after its fault: three are past a breaker's and a gate's minute
SETTLE_S = 0.3
REGISTRY_CONFIG = """\
version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {home}/data}}, cache: {{blobdescriptor: inmemory}}}}
http: {{addr: "127.0.0.1:0"}}
proxy: {{remoteurl: "{upstream}"}}
"""


@dataclass(slots=True)
class CisternSubject:
    """A Cistern process."""

    process: CisternProcess
    name: str = CISTERN
    prefix: str = f"{UPSTREAM}/"

    @property
    def netloc(self) -> str:
        return self.process.netloc

    def committed(self, digest: Digest) -> bytes | None:
        return _read(stored_path(self.process.cache_dir, digest))

    async def quiet(self) -> None:
        while await self.signal("cistern_downloads_running"):  # noqa: ASYNC110 - another process tells no event
            await asyncio.sleep(0.05)

    async def age(self, seconds: float) -> None:
        await _pass(seconds)

    async def signal(self, metric: str) -> float | None:
        text = await asyncio.to_thread(_get, f"{self.process.admin_url}/metrics")
        families = text_string_to_metric_families(text)
        return sum(sample.value for family in families for sample in family.samples if sample.name == metric)

    async def terminate(self) -> int:
        return await self.process.terminate(grace_s=40.0)


@dataclass(slots=True)
class RegistrySubject:
    """Distribution's registry in proxy mode."""

    server: Server
    home: Path
    netloc: str
    name: str = REGISTRY
    prefix: str = ""

    def committed(self, digest: Digest) -> bytes | None:
        blobs = self.home / "data/docker/registry/v2/blobs"
        return _read(blobs / digest.algorithm / digest.encoded[:2] / digest.encoded / "data")

    async def quiet(self) -> None:
        await asyncio.sleep(SETTLE_S)  # it tells nobody what it is doing

    async def age(self, seconds: float) -> None:
        await _pass(seconds)

    async def signal(self, metric: str) -> float | None:
        return None

    async def terminate(self) -> int:
        return await asyncio.to_thread(lambda: self.server.stop(grace_s=40.0))


@asynccontextmanager
async def cistern(home: Path, stage: Stage, keys: str = "") -> AsyncIterator[CisternSubject]:
    """Cistern before a stage; `keys` are tag keys more, as `tags: {KEY: VALUE}`."""
    own = keys.removeprefix("tags: {").removesuffix("}")
    tags = f"tags: {{fresh_for: 0s{', ' + own if own else ''}}}"
    upstream = f'{{{UPSTREAM}: {{endpoints: [{{url: "{stage.url}"}}], plain_http: true, proxy: none}}}}'
    process = CisternProcess(home, f"{tags}\nhydrate: {{image: none}}\nupstreams: {upstream}\n")
    async with process:
        yield CisternSubject(process)


@asynccontextmanager
async def docker_registry(home: Path, stage: Stage, keys: str = "") -> AsyncIterator[RegistrySubject]:
    """docker-registry before a stage; it has no such keys."""
    server = _registry_server(home, stage.url)
    line = await asyncio.to_thread(server.ready, lambda line: LISTENING.search(line) is not None)
    match = LISTENING.search(line)
    assert match is not None
    try:
        yield RegistrySubject(server, home, f"127.0.0.1:{match['port']}")
    finally:
        await asyncio.to_thread(server.stop)


def _registry_server(home: Path, upstream: str) -> Server:
    home.mkdir(parents=True)
    config = home / "config.yml"
    config.write_text(REGISTRY_CONFIG.format(home=home, upstream=upstream))
    return Server(["docker-registry", "serve", config], env={"OTEL_TRACES_EXPORTER": "none"})


Opened = AbstractAsyncContextManager[CisternSubject] | AbstractAsyncContextManager[RegistrySubject]
SUBJECTS: dict[str, Callable[[Path, Stage, str], Opened]] = {CISTERN: cistern, REGISTRY: docker_registry}


async def _pass(seconds: float) -> None:
    """Real time: tags are always old here, and what is remembered of a fault is waited for in steps."""
    if seconds >= CALM_S:
        await asyncio.sleep(WAIT_S)


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())
