"""`workers: 2`: an engine and two serving processes are one server, whichever of them answers."""

import asyncio
from pathlib import Path

import pytest

from proxy.serve import FILES_PER_CONNECTION
from tests.support.cistern import CisternProcess, stored
from tests.support.images import Blob, Image
from tests.support.pulling import Pulling, one_after_another
from tests.support.registry import Registry
from tests.support.served import config
from tests.support.several import connections_of, files_of
from tests.support.waiting import seen
from tests.support.workers import CLIENTS, SIZE, blob_path, get, metric, requests_told, servers, spread, streaming


def assert_both_serve(served: CisternProcess) -> None:
    port = int(served.netloc.rpartition(":")[2])
    assert all(connections_of(pid, port) for pid in servers(served))


async def test_a_cold_blob_asked_for_at_both_is_fetched_once(
    served: CisternProcess, registry: Registry, layer: Blob
) -> None:
    """Readers in both processes share one transfer, and each gets every byte while it grows."""
    async with served:
        gate, pullings = await streaming(served, registry, layer)
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


@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_heads_over_one_connection_have_no_body(served: CisternProcess, image: Image, by: str) -> None:
    """Asked of the engine, and given again by the serving process."""
    target = f"/v2/hub.test/team/app/manifests/{'1' if by == 'tag' else image.digest}"
    async with served:
        bodies = await one_after_another(served.netloc, target, ["GET", *["HEAD"] * CLIENTS, "GET"])
    assert bodies == [image.manifest.data, *[b""] * CLIENTS, image.manifest.data]


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
        await seen(lambda: len(requests_told(served)) >= CLIENTS + 3)
        told = requests_told(served)
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
