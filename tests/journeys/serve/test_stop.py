"""`cistern serve` ends by signals, with streams running and hydrations under way."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.cistern import CISTERN, ROOT, CisternProcess, stored
from tests.support.images import Blob
from tests.support.process import environment
from tests.support.pulling import Pulling
from tests.support.registry import Registry
from tests.support.served import SIZE, asked, config, draining, streaming


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_running_stream_ends_whole(
    served: CisternProcess, registry: Registry, layer: Blob, number: signal.Signals
) -> None:
    """Readiness fails first, nobody new gets in, who is inside gets all bytes, and the exit code is 0."""
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        kept = await asked(served.registry_url, "/v2/")
        await kept.read(2)
        await draining(served, number)
        ready = await asked(served.admin_url, "/readyz")
        assert (ready.status, json.loads(await ready.rest())) == (503, {"status": "draining"})
        with pytest.raises(ConnectionRefusedError):
            await Pulling.start(served.netloc, "/v2/")
        kept.writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        kept.status = 0
        assert await kept.head() == 200
        assert kept.headers["Connection"] == "close"
        await kept.leave()
        gate.open()
        assert await pulling.rest() == layer.data
        assert await served.ended() == 0
    assert not served.control.exists()


async def test_twenty_streams_end_whole_and_five_hydrations_are_parked(short_tmp: Path, registry: Registry) -> None:
    """SIGTERM in the middle of all (F27): every stream is whole and the exit code 0; what is left on disk is what a
    restart goes on from, and it does, to the end.
    """
    layers = [registry.add_blob("team/app", images.blob(SIZE, seed=n)) for n in range(20)]
    pictures = [
        registry.add(f"team/{n}", "1", images.manifest(images.blob(500, seed=n), images.blob(SIZE, seed=99 + n)))
        for n in range(5)
    ]
    served = CisternProcess(short_tmp / "cistern", config(registry, hydrate={"concurrency": 5}))
    async with served:
        gates = [registry.hold(blob.digest, after_bytes=SIZE // 2) for blob in layers]
        parked = [registry.hold(picture.layers[1].digest, after_bytes=SIZE // 2) for picture in pictures]
        for number, picture in enumerate(pictures):
            for path in (f"manifests/{picture.digest}", f"blobs/{picture.layers[0].digest}"):
                pulled = await asked(served.registry_url, f"/v2/hub.test/team/{number}/{path}")
                await pulled.rest()
        for gate in parked:  # first: beside clients none would begin
            await gate.reached()
        pulls = [await asked(served.registry_url, f"/v2/hub.test/team/app/blobs/{blob.digest}") for blob in layers]
        for gate in gates:
            await gate.reached()
        await draining(served, signal.SIGTERM)
        for path, status in (("/readyz", 503), ("/livez", 200)):
            probe = await asked(served.admin_url, path)
            assert probe.status == status
            await probe.leave()
        for gate in gates:
            gate.open()
        assert [await pulling.rest() for pulling in pulls] == [blob.data for blob in layers]
        assert await asyncio.wait_for(served.ended(), 20) == 0
        left = {path.suffix for path in (served.cache_dir / "parts").iterdir()}
        assert left <= {".part", ".map"}
        assert {blob.digest for blob in layers} <= stored(served.cache_dir)
        registry.heal()
        await served.start()
        done: set[str] = set()

        def all_are_done(line: dict[str, Any]) -> bool:
            done.update({line["manifest"]} if line["event"] == "hydration ended" and line["result"] == "done" else ())
            return len(done) == len(pictures)

        await served.logged(all_are_done)
        assert {picture.layers[1].digest for picture in pictures} <= stored(served.cache_dir)


async def test_what_a_drain_has_kept_is_whole(served: CisternProcess, registry: Registry, layer: Blob) -> None:
    """The blob that streamed while the server drained is in the store when it has ended."""
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        await draining(served, signal.SIGTERM)
        gate.open()
        await pulling.rest()
        assert await served.ended() == 0
        await served.start()
        again = await asked(served.registry_url, f"/v2/hub.test/team/app/blobs/{layer.digest}")
        assert await again.rest() == layer.data
        assert "; hit" in again.headers["Cache-Status"]
    assert registry.requests_for(layer.digest) == 1


async def test_a_second_signal_ends_at_once(served: CisternProcess, registry: Registry, layer: Blob) -> None:
    """A stream that would hold it for 25 s is cut; what it had is no visible blob."""
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        await draining(served, signal.SIGTERM)
        assert await asyncio.wait_for(served.terminate(), 5) == 1
        with pytest.raises(ConnectionError):
            await pulling.rest()
        gate.open()
        assert layer.digest not in stored(served.cache_dir)
        assert any(line["event"] == "ended at once by a second signal" for line in served.log_lines())
        await served.start()  # the lock and the old socket are in nobody's way
        ready = await asked(served.registry_url, "/-/ready")
        assert (ready.status, await ready.rest()) == (200, b"")


async def test_a_drain_that_runs_out_cuts_what_is_left(short_tmp: Path, registry: Registry, layer: Blob) -> None:
    """Past `drain` a stream is cut, never ended as if it were whole; the log says so, and the exit code is 0."""
    served = CisternProcess(short_tmp / "cistern", config(registry, registry={"drain": "300ms"}))
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        assert await asyncio.wait_for(served.terminate(), 10) == 0
        with pytest.raises(ConnectionError):
            await pulling.rest()
        gate.open()
    assert any(line["event"].startswith("drain ran out") for line in served.log_lines())


async def test_after_a_kill_the_old_socket_is_replaced(served: CisternProcess) -> None:
    """SIGKILL leaves the control socket's file; the next start takes its place."""
    async with served:
        await served.kill()
        assert served.control.exists()
        await served.start()
        (await served.command("status")).check()


async def test_a_start_that_hangs_is_stopped_by_one_signal(short_tmp: Path) -> None:
    """An authority on a mount that gives no answer: there is nothing to drain, and nothing to wait for."""
    fifo, chosen = short_tmp / "ca.pem", short_tmp / "cistern.yaml"
    os.mkfifo(fifo)
    hub = {"endpoints": [{"url": "https://127.0.0.1:1"}], "tls": {"ca": str(fifo)}}
    chosen.write_text(json.dumps({"upstreams": {"hub.test": hub}}))
    process = await asyncio.create_subprocess_exec(
        *CISTERN, "serve", "--config", chosen, "--listen", "127.0.0.1:0", "--cache-dir", short_tmp / "cache",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment({"PYTHONPATH": str(ROOT)}),
    )  # fmt: skip
    held = await asyncio.to_thread(os.open, fifo, os.O_WRONLY)  # comes back once the server reads there
    process.terminate()
    shown, logged = await asyncio.wait_for(process.communicate(), 20)
    os.close(held)
    assert (process.returncode, shown) == (0, b"")
    assert json.loads(logged.splitlines()[-1])["event"] == "stopped before it was ready"
