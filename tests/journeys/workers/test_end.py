"""`workers: 2`: how several processes stop, are orphaned, and would not start."""

import json
import os
import signal

from tests.support.cistern import CisternProcess, cistern
from tests.support.images import Blob
from tests.support.pulling import Pulling
from tests.support.registry import Registry
from tests.support.served import asked
from tests.support.several import is_alive, pid_of
from tests.support.waiting import seen
from tests.support.workers import get, servers, streaming


async def test_a_stop_lets_running_answers_end(served: CisternProcess, registry: Registry, layer: Blob) -> None:
    """TERM: not ready, nobody new, who is inside gets all bytes; then the engine ends, and exit code 0."""
    async with served:
        gate, readers = await streaming(served, registry, layer)
        processes = [pid_of(served, "engine"), *servers(served)]
        assert served.pid is not None
        os.kill(served.pid, signal.SIGTERM)
        await served.logged(lambda line: line["event"] == "stopping")
        while (ready := await asked(served.admin_url, "/readyz")).status == 200:
            await ready.leave()
        assert json.loads(await ready.rest()) == {"status": "draining"}
        await _until_refused(served)
        gate.open()
        for reader in readers:
            assert await reader.rest() == layer.data
        assert await served.ended() == 0
    assert not any(map(is_alive, processes))
    assert not served.control.exists()


async def _until_refused(served: CisternProcess) -> None:
    while True:
        try:
            await (await Pulling.start(served.netloc, "/v2/")).leave()
        except ConnectionError:
            return


async def test_none_outlives_a_killed_parent(served: CisternProcess) -> None:
    """kill -9 of the parent ends the others: another server can have the directory and the address."""
    async with served:
        processes = [pid_of(served, "engine"), *servers(served)]
        await served.kill()
        await seen(lambda: not any(map(is_alive, processes)))
        await served.start()
        assert (await get(served, "/v2/")).status == 200


async def test_a_directory_in_use_is_refused_in_words(served: CisternProcess) -> None:
    """What the engine cannot start with is the server's own end: one line, and the exit code of one process."""
    async with served:
        ran = await cistern(
            "serve", "--config", served.config_path, "--cache-dir", served.cache_dir, "--workers", "2",
            "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log-format", "json",
        )  # fmt: skip
        said = [line for line in ran.output.splitlines() if not line.startswith("{")]
        assert (ran.code, len(said)) == (1, 1), ran.output
        assert "another server" in said[0]
