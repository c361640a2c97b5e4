"""`workers: 2`: what dies, or is replaced, costs no reader a byte and lets no lie through."""

import asyncio
import os
import signal

import pytest

from tests.support import script
from tests.support.cistern import CisternProcess
from tests.support.images import Blob, Image
from tests.support.pulling import Pulling
from tests.support.registry import Registry
from tests.support.served import config
from tests.support.several import connections_of, is_alive, pid_after, pid_of
from tests.support.waiting import seen
from tests.support.wire import Gate
from tests.support.workers import (
    CLIENTS,
    LARGE,
    blob_path,
    get,
    metric,
    replaced,
    requests_told,
    servers,
    spread,
    streaming,
)

TWICE = 8 << 20  # bytes that a killed engine may cost again


async def kept_by_both(served: CisternProcess, path: str) -> int:
    """Ask until both serving processes answer without a question; how often it was asked."""
    count = 0
    while True:
        before = len(requests_told(served))
        for pulling in await spread(served, path):
            await pulling.rest()
        count += CLIENTS
        await seen(lambda: len(requests_told(served)) >= before + CLIENTS)  # noqa: B023 - waited for at once
        told = requests_told(served)[before:]
        if all("." in line["id"] for line in told):
            return count


async def test_a_killed_engine_costs_no_reader_its_blob(
    served: CisternProcess, registry: Registry, large: Blob
) -> None:
    """kill -9 of the engine in mid-transfer: it is started again, the part is taken up, and every reader, caught up or
    behind, of all or of a range, gets its bytes; what was fetched is not fetched again.
    """
    path = f"/v2/hub.test/team/large/blobs/{large.digest}"
    async with served:
        gate = registry.hold(large.digest, after_bytes=LARGE // 2)
        readers = await spread(served, path, 8)
        ranged = await Pulling.start(served.netloc, path, headers={"Range": "bytes=3000000-15000000"})
        await gate.reached()
        for reader in readers[:4]:
            await reader.read(LARGE // 2 - 200_000)
        await ranged.read(2_000_000)
        engine, again = pid_of(served, "engine"), registry.hold_headers(large.digest)
        os.kill(engine, signal.SIGKILL)
        await pid_after(served, "engine", engine)
        await again.reached()  # the part was taken up, and nothing has come anew
        for reader in readers[:4]:  # what was on its way to them is what it was
            await reader.read(LARGE // 2 - len(reader.body))
            assert reader.body == large.data[: LARGE // 2]
        gate.open()
        again.open()
        late = await Pulling.start(served.netloc, path)
        for reader in (*readers, late):
            assert await reader.rest() == large.data, (reader.status, reader.body[:300])
        assert await ranged.rest() == large.data[3_000_000:15_000_001]
        assert registry.bytes_for(large.digest) <= LARGE + TWICE


async def test_a_killed_engine_completes_no_lie(served: CisternProcess, registry: Registry, large: Blob) -> None:
    """Bytes of a lying answer that had left before the kill are in no body that ends whole afterwards, also when the
    next engine finds the true ones.
    """
    path = f"/v2/hub.test/team/large/blobs/{large.digest}"
    async with served:
        stop = Gate()
        registry.script(large.digest, script.spoil(1000), script.gate(stop, LARGE // 2), times=1)
        readers = await spread(served, path, 6)
        await stop.reached()
        for reader in readers[:3]:
            await reader.read(LARGE // 2 - 200_000)
        engine = pid_of(served, "engine")
        os.kill(engine, signal.SIGKILL)
        await pid_after(served, "engine", engine)
        ends = await asyncio.gather(*(reader.rest() for reader in readers), return_exceptions=True)
        assert all(isinstance(end, ConnectionError) for end in ends)
        stop.open()
        assert (await get(served, path)).body == large.data


async def test_a_restart_that_the_killed_engine_took_with_it_completes_no_lie(
    served: CisternProcess, registry: Registry, large: Blob
) -> None:
    """An engine finds its part wrong, and is killed while it fetches the true bytes. Clients that were slow then hold
    wrong ones, and nobody told them: the next engine, which finds true ones where theirs were, does not go on for them.
    """
    path, beyond = f"/v2/hub.test/team/large/blobs/{large.digest}", LARGE * 3 // 4
    async with served:
        stop = Gate()
        again = registry.hold(large.digest, beyond, times=1)
        registry.script(large.digest, times=1)  # the honest rest, by which the whole is found to be wrong
        lie = script.spoil(1000), script.gate(stop, LARGE // 2), script.cut(LARGE // 2)
        registry.script(large.digest, *lie, times=1)
        readers = await spread(served, path, 6)
        for reader in readers:
            await reader.read(100_000)
        await stop.reached()
        stop.open()
        await again.reached()
        engine = pid_of(served, "engine")
        os.kill(engine, signal.SIGKILL)
        await pid_after(served, "engine", engine)
        ends = await asyncio.gather(*(reader.rest() for reader in readers), return_exceptions=True)
        assert all(isinstance(end, ConnectionError) for end in ends)
        assert (await get(served, path)).body == large.data


async def test_what_is_blocked_while_no_engine_is_there_ends_all_the_same(
    served: CisternProcess, registry: Registry, large: Blob
) -> None:
    """Nobody told the serving processes, which send whole files by themselves: the next engine does."""
    path = f"/v2/hub.test/team/large/blobs/{large.digest}"
    async with served:
        await get(served, path)
        running = await spread(served, path)  # too long for the sockets: none is done
        engine = pid_of(served, "engine")
        served.configure(
            config(
                registry, registry={"workers": 2, "drain": "20s"}, hydrate={"image": "none"}, block=[str(large.digest)]
            )
        )
        os.kill(engine, signal.SIGKILL)
        await pid_after(served, "engine", engine)
        await served.logged(lambda line: line["event"] == "streams of blocked digests were cut")
        for pulling in running:
            with pytest.raises(ConnectionError):
                await pulling.rest()


async def test_hits_go_on_while_the_engine_is_away(served: CisternProcess, image: Image) -> None:
    """A stopped engine answers nobody, and nobody has to ask for what was asked for lately."""
    paths = ("/v2/hub.test/team/app/manifests/1", blob_path(image.layers[0]))
    async with served:
        count = sum([await kept_by_both(served, path) for path in (*paths, paths[0])])
        engine = pid_of(served, "engine")
        os.kill(engine, signal.SIGSTOP)
        try:
            for path in paths:
                for number in range(CLIENTS):  # also on the ordinary road
                    headers = {"Connection": "close"} if number % 2 else {}
                    assert (await get(served, path, **headers)).headers["Cache-Status"].endswith("; hit")
        finally:
            os.kill(engine, signal.SIGCONT)
        assert await metric(served, "cistern_requests_total") == count + 2 * CLIENTS


async def test_a_killed_serving_process_is_started_again(
    served: CisternProcess, registry: Registry, layer: Blob
) -> None:
    """Its clients lose their connections, the other's do not; who comes meanwhile waits, and is served."""
    async with served:
        gate, readers = await streaming(served, registry, layer)
        first = pid_of(served, "server 1")
        lost = connections_of(first, int(served.netloc.rpartition(":")[2]))
        os.kill(first, signal.SIGKILL)
        await pid_after(served, "server 1", first)
        gate.open()
        ends = await asyncio.gather(*(reader.rest() for reader in readers), return_exceptions=True)
        assert sum(isinstance(end, ConnectionError) for end in ends) == lost
        assert sum(end == layer.data for end in ends) == CLIENTS - lost
        for pulling in await spread(served, "/v2/"):
            await pulling.rest()
        assert registry.requests_for(layer.digest) == 1


async def test_a_rolling_restart_loses_no_request(served: CisternProcess, image: Image) -> None:
    """USR2 replaces each serving process under constant requests, over kept and over new connections: all succeed."""
    path = "/v2/hub.test/team/app/manifests/1"
    async with served:
        await get(served, path)
        before, is_over = servers(served), asyncio.Event()

        async def keep_asking() -> int:
            count, kept = 0, None
            while not is_over.is_set():
                if kept is None:
                    kept = await Pulling.start(served.netloc, path)
                else:
                    kept.writer.write(f"GET {path} HTTP/1.1\r\nHost: {served.netloc}\r\n\r\n".encode())
                    kept.status, kept.body = 0, bytearray()
                assert await kept.head() == 200
                assert await kept.read(len(image.manifest.data)) == image.manifest.data
                count += 1
                if kept.headers.get("Connection") == "close":
                    await kept.leave()
                    kept = None
            if kept is not None:
                await kept.leave()
            return count

        async def keep_coming() -> int:
            count = 0
            while not is_over.is_set():
                assert (await get(served, path)).body == image.manifest.data
                count += 1
            return count

        asking = [asyncio.ensure_future(work()) for work in (*[keep_asking] * 6, *[keep_coming] * 2)]
        assert served.pid is not None
        os.kill(served.pid, signal.SIGUSR2)
        for number in (1, 2):
            await replaced(served, f"server {number}")
        while any(map(is_alive, before)):
            await get(served, "/v2/")
        is_over.set()
        assert min(await asyncio.gather(*asking)) > 0
        assert not set(servers(served)) & set(before)
