"""Upstreams that lie, through the whole proxy: a clear answer, counted once, and nothing kept."""

from collections.abc import Mapping, Sequence

import pytest
from structlog.testing import capture_logs

from proxy.events import NotStored
from proxy.outcome import Result
from tests.support import script
from tests.support.images import Blob, Image
from tests.support.leading import APP
from tests.support.proxy import Proxy
from tests.support.registry import Registry
from tests.support.wire import Fault, reply

LOOP = "/v2/team/app/manifests/1"
# what an upstream does to a manifest's GET -> what a client is told
MANIFEST_LIES: dict[str, tuple[tuple[Fault, ...], int]] = {
    "html": ((script.html(),), 502),
    "another manifest": ((script.become(reply(200, b"{}", "application/vnd.oci.image.manifest.v1+json")),), 502),
    "short": ((script.declare(300_000),), 503),
    "endless": ((script.endless,), 502),
    "redirect loop": ((script.redirect(LOOP),), 502),
    "brotli": ((script.set_header("Content-Encoding", "br"),), 502),
}


@pytest.mark.parametrize(("faults", "status"), MANIFEST_LIES.values(), ids=MANIFEST_LIES.keys())
async def test_a_lying_manifest_is_told_and_not_kept(
    proxy: Proxy, public: Registry, image: Image, faults: tuple[Fault, ...], status: int
) -> None:
    """An error and one line for it, nothing is stored, and the next honest answer is served at once."""
    public.script("1", *faults, methods=("GET", "HEAD"))
    with capture_logs() as lines:
        answer = await proxy.ask(f"{APP}/manifests/1")
    assert answer.status == status
    assert [line for line in lines if line["log_level"] == "error"] == []
    (exchange,) = proxy.exchanges
    assert (exchange.result, exchange.error is None) == (Result.ERROR, False)
    assert not [path for path in (proxy.rooms.disk.directory.root / "blobs").rglob("*") if path.is_file()]
    public.heal()
    assert (await proxy.ask(f"{APP}/manifests/1")).body == image.manifest.data


async def test_a_gzipped_manifest_is_unpacked(proxy: Proxy, public: Registry, image: Image) -> None:
    """Some registries pack small answers whatever they are asked (B16): the client gets the bytes of the digest."""
    public.script("1", script.compress)
    answer = await proxy.ask(f"{APP}/manifests/1")
    assert (answer.status, answer.body) == (200, image.manifest.data)
    assert "Content-Encoding" not in answer.headers


# what an upstream does to a blob -> the word for it; those that show after bytes have flowed drop the connection
EARLY: dict[str, tuple[Fault, ...]] = {"html": (script.html(),), "gzip": (script.compress,)}
LATE: dict[str, tuple[tuple[Fault, ...], str]] = {
    "wrong digest": ((script.spoil(-1),), "wrong_digest"),
    "spoilt at the start": ((script.spoil(0),), "wrong_digest"),
    "short": ((script.close_delimited, script.cut(0)), "upstream_unavailable"),
    "endless": ((script.endless,), "upstream_lied"),
}


@pytest.mark.parametrize("faults", EARLY.values(), ids=EARLY.keys())
async def test_a_lying_blob_is_a_502_counted_once(
    proxy: Proxy, public: Registry, image: Image, faults: tuple[Fault, ...]
) -> None:
    """A blob answered by HTML or gzip is a 502 before any byte, counted once, not kept; the next answer is served."""
    layer: Blob = image.layers[0]
    public.script(layer.digest, *faults, times=1)
    with capture_logs() as lines:
        answer = await proxy.pull(layer)
    assert (answer.status, answer.code) == (502, "UNKNOWN")
    await honest_again(proxy, layer, lines, "upstream_lied")


@pytest.mark.parametrize(("faults", "reason"), LATE.values(), ids=LATE.keys())
async def test_a_lie_after_bytes_have_flowed_drops_the_connection(
    proxy: Proxy, public: Registry, image: Image, faults: tuple[Fault, ...], reason: str
) -> None:
    """No client takes a wrong, short or endless body for whole; it is counted once, and the next answer is served."""
    layer: Blob = image.layers[0]
    await proxy.ask(f"{APP}/manifests/1")  # tells the size
    public.script(layer.digest, *faults)
    if reason == "upstream_unavailable":  # first short, then again and again without a byte more
        public.script(layer.digest, script.cut(150_000), times=1)
    with capture_logs() as lines:
        pulling = await proxy.start_pull(layer)
        with pytest.raises(ConnectionError):
            await pulling.rest()
        await proxy.quiet()
    assert pulling.status == 200
    assert len(pulling.body) < layer.size
    public.heal()
    await honest_again(proxy, layer, lines, reason)


async def test_a_small_blob_of_wrong_bytes_is_a_true_502(proxy: Proxy, public: Registry, image: Image) -> None:
    """What fits into the bytes held back is judged before its headers leave."""
    config = image.blobs[0]
    public.script(config.digest, script.spoil(5), times=1)
    with capture_logs() as lines:
        answer = await proxy.pull(config)
    assert (answer.status, answer.code) == (502, "UNKNOWN")
    await honest_again(proxy, config, lines, "wrong_digest")


async def honest_again(proxy: Proxy, wanted: Blob, lines: Sequence[Mapping[str, object]], reason: str) -> None:
    """One count and one line with this reason; nothing is stored; the next answer is whole, at once."""
    assert [event.reason for event in proxy.heard if isinstance(event, NotStored)] == [reason]
    assert [line["reason"] for line in lines if line["event"] == "not stored"] == [reason]
    assert [exchange.result for exchange in proxy.exchanges if exchange.kind == "blob"] == [Result.ERROR]
    assert proxy.stored(wanted.digest) is None
    # What an outage cut short is kept, to go on from; what a liar sent is not.
    assert bool(list(proxy.rooms.disk.directory.root.rglob("*.part"))) == (reason == "upstream_unavailable")
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()
    assert proxy.stored(wanted.digest) == wanted.data
