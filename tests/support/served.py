"""`cistern serve` in front of a scripted registry: asked, told, with a stream running, drained."""

import os
import signal
from typing import Any

from tests.support.cistern import CisternProcess
from tests.support.images import Blob
from tests.support.pulling import Pulling
from tests.support.registry import Registry

SIZE = 300_000


def config(upstream: Registry, **keys: Any) -> dict[str, Any]:
    """A config with one upstream, `hub.test`; `keys` are further sections."""
    hub = {"endpoints": [{"url": upstream.url}], "plain_http": True, "proxy": "none"}
    return {"upstreams": {"hub.test": hub}, **keys}


async def streaming(served: CisternProcess, registry: Registry, layer: Blob) -> tuple[Pulling, Any]:
    """A pull that has got its headers and stands at a gate of the upstream."""
    gate = registry.hold(layer.digest, after_bytes=SIZE // 2)
    pulling = await Pulling.start(served.netloc, f"/v2/hub.test/team/app/blobs/{layer.digest}")
    await gate.reached()
    assert await pulling.head() == 200
    return pulling, gate


async def asked(url: str, path: str) -> Pulling:
    pulling = await Pulling.start(url.removeprefix("http://"), path)
    await pulling.head()
    return pulling


async def told(served: CisternProcess, event: str) -> dict[str, Any]:
    """Wait for a line of the log."""
    return await served.logged(lambda line: line["event"] == event)


async def draining(served: CisternProcess, number: signal.Signals) -> None:
    """Send a signal, and wait until it drains."""
    assert served.pid is not None
    os.kill(served.pid, number)
    await served.logged(lambda line: line["event"] == "draining")
