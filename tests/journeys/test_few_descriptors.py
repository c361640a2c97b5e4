"""Too few file descriptors: who holds a connection is served, the others wait, and it is over when the load is."""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.cistern import CisternProcess, image_kept
from tests.support.images import blob, manifest
from tests.support.process import Process, spawned
from tests.support.pulling import Pulling
from tests.support.registry import Registry

HUB, APP = "hub.test", "team/app"
FILES = 96
CROWD = 150


def with_few_files(command: Sequence[str], env: Mapping[str, str] | None, cwd: Path | None) -> Process:
    return spawned(["prlimit", f"--nofile={FILES}:{FILES}", *command], env, cwd)


async def status_of(server: CisternProcess, path: str) -> int:
    pulling = await Pulling.start(server.netloc, path)
    await pulling.rest()
    return pulling.status


async def test_too_few_descriptors_for_all(short_tmp: Path, registry: Registry) -> None:
    """More connections than descriptors: refused in words or made to wait, never a wrong body; the log stays small, the
    disk is not blamed, and once they are gone all is served and kept, without a restart (F33).
    """
    image, *_ = [registry.add(APP, str(number), manifest(blob(200_000, seed=number))) for number in range(1, 9)]
    config = {
        "registry": {"drain": "1s"},
        "upstreams": {HUB: {"endpoints": [{"url": registry.url}], "plain_http": True, "proxy": "none"}},
    }
    server = CisternProcess(short_tmp / "home", config)
    server.spawn = with_few_files
    path = f"/v2/{HUB}/{APP}"
    async with server:
        idle = [await asyncio.open_connection("127.0.0.1", int(server.netloc.rpartition(":")[2])) for _ in range(CROWD)]
        since = server.said
        for number, (reader, writer) in enumerate(idle[:8], 1):  # each asks for what needs a file, and a dial
            writer.write(f"GET {path}/manifests/{number} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head.split(b" ")[1])
            assert status in (200, 503), head
        assert server.said - since < CROWD, "each refused connection costs a line"
        for _, writer in idle:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        async with asyncio.timeout(10):  # the upstream was not blamed either: its breaker would stay open for 30 s
            while await status_of(server, f"{path}/manifests/1") != 200:  # the server hears of who left one by one
                pass
        for part in image.blobs:
            assert await status_of(server, f"{path}/blobs/{part.digest}") == 200
        await image_kept(server.cache_dir, image)
        health = json.loads((await server.command("status", "--json")).output)
        assert health["status"] == "ok", health
    assert server.output().count("Traceback") == 0
