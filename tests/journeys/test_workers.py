"""`workers: 2`: an engine and two serving processes are one server, whichever of them answers, dies or is replaced."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from proxy.serve import FILES_PER_CONNECTION
from tests.journeys.test_serve import asked, config
from tests.support import images, script
from tests.support.cistern import CisternProcess, cistern, stored
from tests.support.images import Blob, Image
from tests.support.pulling import Pulling
from tests.support.registry import Registry
from tests.support.several import connections_of, files_of, is_alive, pid_after, pid_of
from tests.support.wire import Gate

SIZE = 1_000_000
LARGE = 20_000_000  # more than sockets hold
CLIENTS = 24  # all at one of two processes: once in 8 million runs
TWICE = 8 << 20  # bytes that a killed engine may cost again


@pytest.fixture
def served(short_tmp: Path, registry: Registry) -> CisternProcess:
    """A server of two serving processes; not started."""
    return CisternProcess(
        short_tmp / "cistern", config(registry, registry={"workers": 2, "drain": "20s"}, hydrate={"image": "none"})
    )


@pytest.fixture
def image(registry: Registry) -> Image:
    return registry.add("team/app", "1", images.manifest(images.blob(SIZE)))


@pytest.fixture
def layer(image: Image) -> Blob:
    return image.layers[0]


@pytest.fixture
def large(registry: Registry) -> Blob:
    return registry.add("team/large", "1", images.manifest(images.blob(LARGE))).layers[0]


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


async def kept_by_both(served: CisternProcess, path: str) -> int:
    """Ask until both serving processes answer without a question; how often it was asked."""
    count = 0
    while True:
        before = len(requests_told(served))
        for pulling in await spread(served, path):
            await pulling.rest()
        count += CLIENTS
        async with asyncio.timeout(10):
            while len(told := requests_told(served)[before:]) < CLIENTS:  # noqa: ASYNC110 - another process's log
                await asyncio.sleep(0.01)
        if all("." in line["id"] for line in told):
            return count


def requests_told(served: CisternProcess) -> list[dict[str, Any]]:
    """The lines of requests; a serving process's own have a point in their `id`."""
    return [line for line in served.log_lines() if line["event"] == "request"]


async def replaced(served: CisternProcess, process: str) -> None:
    """Wait until a successor has taken over from a serving process."""
    await served.logged(lambda line: line["event"] == "a serving process was replaced" and line["process"] == process)


def servers(served: CisternProcess) -> list[int]:
    return [pid_of(served, f"server {number}") for number in (1, 2)]


def assert_both_serve(served: CisternProcess) -> None:
    port = int(served.netloc.rpartition(":")[2])
    assert all(connections_of(pid, port) for pid in servers(served))


async def metric(served: CisternProcess, name: str) -> float:
    """The sum of a metric over all its labels."""
    text = (await (await asked(served.admin_url, "/metrics")).rest()).decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if re.match(rf"{name}[ {{]", line))


# One server


async def test_a_cold_blob_asked_for_at_both_is_fetched_once(
    served: CisternProcess, registry: Registry, layer: Blob
) -> None:
    """Readers in both processes share one transfer, and each gets every byte while it grows."""
    async with served:
        gate = registry.hold(layer.digest, after_bytes=SIZE // 2)
        pullings = await spread(served, blob_path(layer))
        await gate.reached()
        assert_both_serve(served)
        gate.open()
        bodies = await asyncio.gather(*(pulling.rest() for pulling in pullings))
        assert all(body == layer.data for body in bodies)
        assert registry.requests_for(layer.digest) == 1
        assert registry.bytes_for(layer.digest) == SIZE


async def test_a_cold_stream_opens_no_more_than_is_counted_for_it(
    served: CisternProcess, registry: Registry, layer: Blob
) -> None:
    """The limit of open files is raised by so many for each connection: of a crowd, the last one has its share."""
    async with served:
        port = int(served.netloc.rpartition(":")[2])
        before = {pid: len(files_of(pid)) for pid in servers(served)}
        gate = registry.hold(layer.digest, after_bytes=SIZE // 2)
        readers = await spread(served, blob_path(layer))
        for reader in readers:
            await reader.read(SIZE // 2 - 1)  # the last byte may be held back
        for pid, files in before.items():
            count = connections_of(pid, port)
            assert 0 < len(files_of(pid)) - files <= FILES_PER_CONNECTION * count
        gate.open()
        for reader in readers:
            await reader.rest()


async def test_what_is_here_is_answered_by_both(served: CisternProcess, registry: Registry, image: Image) -> None:
    """The same bytes and headers from each, first asked for and kept; HEAD, ranges and conditions included."""
    layer = image.layers[0]
    async with served:
        first = await get(served, "/v2/hub.test/team/app/manifests/1")
        assert first.body == image.manifest.data
        assert (await get(served, blob_path(layer))).body == layer.data
        for _ in range(CLIENTS):
            again = await get(served, "/v2/hub.test/team/app/manifests/1")
            assert again.body == image.manifest.data
            assert again.headers["Cache-Status"].endswith("; hit")
            assert again.headers["Docker-Content-Digest"] == str(image.digest)
            ranged = await get(served, blob_path(layer), Range="bytes=5-9")
            assert ranged.status == 206
            assert ranged.body == layer.data[5:10]
            assert ranged.headers["Content-Range"] == f"bytes 5-9/{SIZE}"
        whole = await get(served, blob_path(layer))
        assert whole.body == layer.data
        assert (whole.status, "Content-Range" in whole.headers) == (200, False)
        unmet = await get(served, blob_path(layer), Range=f"bytes={SIZE}-")
        assert (unmet.status, unmet.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
        known = await get(served, blob_path(layer), If_None_Match=f'"{layer.digest}"')
        assert (known.status, len(known.body)) == (304, 0)
        head = await Pulling.start(served.netloc, blob_path(layer), method="HEAD")
        assert (await head.head(), head.length) == (200, SIZE)
        await head.leave()
        assert registry.requests_for(layer.digest) == 1


async def test_metrics_count_each_request_once(served: CisternProcess, image: Image) -> None:
    """Whoever answered, from what it kept or by asking: one scrape has them all, as they are at that moment."""
    async with served:
        for _ in range(CLIENTS):
            await get(served, "/v2/hub.test/team/app/manifests/1")
        await get(served, blob_path(image.layers[0]))
        await get(served, blob_path(image.layers[0]))
        missing = await get(served, "/v2/hub.test/team/app/manifests/none")
        assert missing.status == 404
        assert await metric(served, "cistern_requests_total") == CLIENTS + 3
        assert await metric(served, "cistern_sent_bytes_total") >= CLIENTS * len(image.manifest.data) + 2 * SIZE
        async with asyncio.timeout(10):
            while len(told := requests_told(served)) < CLIENTS + 3:  # noqa: ASYNC110 - another process's log
                await asyncio.sleep(0.01)
        assert len(told) == CLIENTS + 3
        assert {line["rule"] for line in told} == {"hub.test"}
        assert {line["id"].partition(".")[0] for line in told if "." in line["id"]} == {"1", "2"}


async def test_a_blocked_digest_ends_everywhere(served: CisternProcess, registry: Registry, large: Blob) -> None:
    """A reload that blocks a digest cuts its streams in both processes, and neither has it any more."""
    async with served:
        path = f"/v2/hub.test/team/large/blobs/{large.digest}"
        await get(served, path)
        await get(served, path)
        running = await spread(served, path)  # too long for the sockets: none is done
        blocked = config(
            registry, registry={"workers": 2, "drain": "20s"}, hydrate={"image": "none"}, block=[str(large.digest)]
        )
        served.configure(blocked)
        served.reload()
        await served.logged(lambda line: line["event"] == "config taken over")
        for pulling in running:
            with pytest.raises(ConnectionError):
                await pulling.rest()
        for _ in range(CLIENTS):
            assert (await get(served, path)).status == 403


async def test_an_evicted_image_is_gone_from_both(served: CisternProcess, registry: Registry, image: Image) -> None:
    """What was kept by a serving process goes with the eviction: the next request asks upstream again."""
    async with served:
        await get(served, "/v2/hub.test/team/app/manifests/1")
        for _ in range(CLIENTS):
            await get(served, blob_path(image.layers[0]))
        (await served.command("evict", "hub.test/team/app:1")).check()
        assert image.layers[0].digest not in stored(served.cache_dir)
        for pid in servers(served):
            assert not [name for name in files_of(pid) if image.layers[0].digest.encoded in name]
        again = await get(served, blob_path(image.layers[0]))
        assert again.body == image.layers[0].data
        assert registry.requests_for(image.layers[0].digest) == 2


async def test_the_data_address_is_served_by_both(short_tmp: Path, registry: Registry, large: Blob) -> None:
    """A blob that is redirected comes from a listener of the same processes, cold and whole; a forged address opens
    nothing, also where the blob was just sent.
    """
    blobs = {"listen": "127.0.0.1:0", "redirect": {"url": "http://data.example", "clients": ["127.0.0.0/8"]}}
    served = CisternProcess(
        short_tmp / "cistern", config(registry, registry={"workers": 2}, blobs=blobs, hydrate={"image": "none"})
    )
    async with served:
        data = next(line for line in served.output().splitlines() if " data=" in line).rpartition("data=http://")[2]
        await get(served, "/v2/hub.test/team/large/manifests/1")  # it tells the blob's size
        for _ in range(2):
            moved = await get(served, f"/v2/hub.test/team/large/blobs/{large.digest}")
            assert moved.status == 307
            target = moved.headers["Location"].removeprefix("http://data.example")
            sent = [await Pulling.start(data, target) for _ in range(4)]
            assert all([await pulling.rest() == large.data for pulling in sent])
            forged = await Pulling.start(data, target[:-1] + ("0" if target[-1] != "0" else "1"))
            assert await forged.head() == 403
            await forged.rest()
        assert registry.requests_for(large.digest) == 1


# What dies


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


async def test_hits_go_on_while_the_engine_is_away(served: CisternProcess, image: Image) -> None:
    """A stopped engine answers nobody, and nobody has to ask for what was asked for lately."""
    paths = ("/v2/hub.test/team/app/manifests/1", blob_path(image.layers[0]))
    async with served:
        count = sum([await kept_by_both(served, path) for path in (*paths, paths[0])])
        engine = pid_of(served, "engine")
        os.kill(engine, signal.SIGSTOP)
        try:
            for path in paths:
                for _ in range(CLIENTS):
                    assert (await get(served, path)).headers["Cache-Status"].endswith("; hit")
        finally:
            os.kill(engine, signal.SIGCONT)
        assert await metric(served, "cistern_requests_total") == count + 2 * CLIENTS


async def test_a_killed_serving_process_is_started_again(
    served: CisternProcess, registry: Registry, layer: Blob
) -> None:
    """Its clients lose their connections, the other's do not; who comes meanwhile waits, and is served."""
    async with served:
        gate = registry.hold(layer.digest, after_bytes=SIZE // 2)
        readers = await spread(served, blob_path(layer))
        await gate.reached()
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


# The end


async def test_a_stop_lets_running_answers_end(served: CisternProcess, registry: Registry, layer: Blob) -> None:
    """TERM: not ready, nobody new, who is inside gets all bytes; then the engine ends, and exit code 0."""
    async with served:
        gate = registry.hold(layer.digest, after_bytes=SIZE // 2)
        readers = await spread(served, blob_path(layer))
        await gate.reached()
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
        async with asyncio.timeout(20):
            while any(map(is_alive, processes)):  # noqa: ASYNC110 - another process's end rings no bell
                await asyncio.sleep(0.01)
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
