"""A server of several processes: asked at all of them, and what each of them told."""

import re
from typing import Any

from tests.support.cistern import CisternProcess
from tests.support.images import Blob
from tests.support.pulling import Pulling
from tests.support.registry import Registry
from tests.support.served import asked
from tests.support.several import pid_of
from tests.support.wire import Gate

SIZE = 1_000_000
LARGE = 20_000_000  # more than sockets hold
CLIENTS = 24  # all at one of two processes: once in 8 million runs


def blob_path(blob: Blob) -> str:
    return f"/v2/hub.test/team/app/blobs/{blob.digest}"


async def get(served: CisternProcess, path: str, **headers: str) -> Pulling:
    """One whole answer, over a connection of its own."""
    pulling = await Pulling.start(
        served.netloc, path, headers={name.replace("_", "-"): v for name, v in headers.items()}
    )
    await pulling.rest()
    return pulling


async def spread(served: CisternProcess, path: str, count: int = CLIENTS) -> list[Pulling]:
    """So many requests, each over a connection of its own, whose heads are read."""
    pullings = [await Pulling.start(served.netloc, path) for _ in range(count)]
    for pulling in pullings:
        assert await pulling.head() == 200
    return pullings


async def streaming(served: CisternProcess, registry: Registry, layer: Blob) -> tuple[Gate, list[Pulling]]:
    """Readers at both processes of a layer whose upstream stands halfway, and the gate where it stands."""
    gate = registry.hold(layer.digest, after_bytes=SIZE // 2)
    readers = await spread(served, blob_path(layer))
    await gate.reached()
    return gate, readers


def requests_told(served: CisternProcess) -> list[dict[str, Any]]:
    """The lines of requests; a serving process's own have a point in their `id`."""
    return [line for line in served.log_lines() if line["event"] == "request"]


async def replaced(served: CisternProcess, process: str) -> None:
    """Wait until a successor has taken over from a serving process."""
    await served.logged(lambda line: line["event"] == "a serving process was replaced" and line["process"] == process)


def servers(served: CisternProcess) -> list[int]:
    return [pid_of(served, f"server {number}") for number in (1, 2)]


async def metric(served: CisternProcess, name: str) -> float:
    """The sum of a metric over all its labels."""
    text = (await (await asked(served.admin_url, "/metrics")).rest()).decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))
