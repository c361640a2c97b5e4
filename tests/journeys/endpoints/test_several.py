"""Several endpoints of one upstream, and what a failed transfer leaves: through the whole proxy."""

import asyncio
import json
from pathlib import Path

import pytest

from proxy.errors import UpstreamUnavailable
from tests.support import script
from tests.support.both import APP, MIB, TAG, both
from tests.support.clock import Clock
from tests.support.images import Blob, blob
from tests.support.proxy import UPSTREAM, config_text, proxied, running
from tests.support.realm import Bearer, Realm
from tests.support.registry import Registry
from tests.support.wire import Fault


@pytest.mark.parametrize("readers", [1, 8])
@pytest.mark.parametrize(
    ("fault", "lossy"),
    [
        pytest.param(script.cut(MIB), False, id="closed in mid-body"),
        pytest.param(script.cut(MIB, reset=True), True, id="reset in mid-body, which loses what was on its way"),
        pytest.param(script.cut(1), False, id="closed after a byte"),
    ],
)
async def test_a_half_read_blob_goes_on_at_another_endpoint(
    cache_dir: Path,
    registry: Registry,
    second: Registry,
    clock: Clock,
    wanted: Blob,
    fault: Fault,
    lossy: bool,
    readers: int,
) -> None:
    """The rest comes from the second endpoint by Range, at the exact offset: the first is asked once,
    and no byte comes twice."""
    async with both(cache_dir, registry, second, clock) as proxy:
        registry.script(wanted.digest, fault)
        answers = await asyncio.gather(*(proxy.pull(wanted) for _ in range(readers)))
        assert {answer.body for answer in answers} == {wanted.data}
        await proxy.quiet()
        [rest] = second.recorded(wanted.digest)
        assert registry.requests_for(wanted.digest) == 1
        assert rest.headers["Range"].startswith("bytes=")
        sent = registry.bytes_for(wanted.digest) + second.bytes_for(wanted.digest)
        assert sent == wanted.size or (lossy and sent > wanted.size)
        assert proxy.stored(wanted.digest) == wanted.data


async def test_a_stalled_endpoint_is_left_for_another(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock, wanted: Blob
) -> None:
    """Silence in mid-body costs one `stall`, not one for each try."""
    async with both(cache_dir, registry, second, clock) as proxy:
        registry.hold(wanted.digest, after_bytes=MIB)
        assert (await proxy.pull(wanted)).body == wanted.data
        assert (registry.requests_for(wanted.digest), second.requests_for(wanted.digest)) == (1, 1)


async def test_an_endpoint_that_is_gone_costs_clients_nothing(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock, wanted: Blob
) -> None:
    """With the first endpoint's port closed every pull comes from the second; the first is dialled until its breaker
    opens, and then no more.
    """
    async with both(cache_dir, registry, second, clock) as proxy:
        await registry.stop()
        for number in range(10):
            assert (await proxy.ask(f"{APP}/manifests/absent{number}")).status == 404
        assert (await proxy.ask(TAG)).status == 200
        assert (await proxy.pull(wanted)).body == wanted.data
        first, other = proxy.rooms.upstreams.states(UPSTREAM)
        assert (first.circuit, other.circuit) == ("open", "closed")


async def test_each_endpoint_has_tokens_of_its_own(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock, wanted: Blob
) -> None:
    """A token of the first endpoint's realm is never shown to the second, which asks its own realm."""
    async with Realm("first", clock=clock) as here, Realm("second", clock=clock) as there:
        registry.authority, second.authority = Bearer(here), Bearer(there)
        async with both(cache_dir, registry, second, clock) as proxy:
            registry.script(wanted.digest, script.cut(MIB))
            assert (await proxy.pull(wanted)).body == wanted.data
        for site, realm in ((registry, here), (second, there)):
            shown = {
                request.headers["Authorization"] for request in site.requests if "Authorization" in request.headers
            }
            assert shown == {f"Bearer {token}" for token in realm.grants}
            assert len(realm.requests) == 1


async def test_an_upstream_that_restarts_costs_no_pull_that_had_begun(
    cache_dir: Path, registry: Registry, clock: Clock
) -> None:
    """Eight transfers cut at once open the breaker; each waits for the probe that brings the upstream back, and ends
    whole.
    """
    layers = [registry.add_blob(APP, blob(MIB + number, seed=number)) for number in range(8)]
    breaker = {"failures": 3, "reset_after": "200ms"}
    text = config_text(cache_dir, registry, "hydrate: {image: none}", breaker=breaker)
    async with running(text, clock, rng=lambda: 1.0) as proxy:  # the longest pauses: no luck is needed
        gates = [registry.hold(layer.digest, after_bytes=300_000) for layer in layers]
        pulls = [await proxy.start_pull(layer) for layer in layers]
        for gate in gates:
            await gate.reached()
        await registry.stop()
        registry.heal()

        def is_open() -> bool:
            return proxy.rooms.upstreams.states(UPSTREAM)[0].circuit != "closed"

        bodies = [asyncio.ensure_future(pull.rest()) for pull in pulls]
        while not is_open():
            await asyncio.wait(bodies, timeout=0.01)
        await registry.start()
        assert await asyncio.gather(*bodies) == [layer.data for layer in layers]


async def test_what_a_liar_left_costs_the_next_upstream_nothing(cache_dir: Path, clock: Clock) -> None:
    """Half of a wrong body, left by an upstream that then was away, is not spliced into an honest one's transfer: its
    first reader gets the whole blob.
    """
    wanted = blob(3 * MIB + 777)
    async with Registry() as liar, Registry() as honest:
        liar.add_blob(APP, wanted)
        honest.add_blob(APP, wanted)
        liar.script(wanted.digest, script.cut(0))
        liar.script(wanted.digest, script.spoil(), script.cut(MIB), times=1)
        upstreams = {
            f"{name}.test": {"endpoints": [{"url": site.url}], "plain_http": True}
            for name, site in (("liar", liar), ("honest", honest))
        }
        text = f"cache: {{directory: {cache_dir}}}\nhydrate: {{image: none}}\nupstreams: {json.dumps(upstreams)}\n"
        async with running(text, clock, rng=lambda: 0.0) as proxy:
            with pytest.raises(ConnectionError):
                await proxy.ask(f"/v2/liar.test/{APP}/blobs/{wanted.digest}")
            await proxy.quiet()
            answer = await proxy.ask(f"/v2/honest.test/{APP}/blobs/{wanted.digest}")
            assert (answer.status, answer.body == wanted.data) == (200, True)
            assert [("Range" in asked.headers) for asked in honest.recorded(wanted.digest)] == [False]


async def test_what_an_outage_left_is_gone_on_from(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """The same upstream's own bytes are kept: the next pull asks for the rest only."""
    wanted = registry.add_blob(APP, blob(3 * MIB + 777))
    async with proxied(cache_dir, registry, clock, "hydrate: {image: none}") as proxy:
        registry.script(wanted.digest, script.cut(0))
        registry.script(wanted.digest, script.cut(MIB), times=1)
        with pytest.raises(ConnectionError):
            await proxy.pull(wanted)
        await proxy.quiet()
        registry.heal()
        registry.forget()
        clock.advance(60)
        assert (await proxy.pull(wanted)).body == wanted.data
        [asked] = registry.recorded(wanted.digest)
        assert asked.headers["Range"] == f"bytes={MIB - 1}-"


async def test_a_refusal_begins_nothing_and_joins_nothing(cache_dir: Path, registry: Registry, clock: Clock) -> None:
    """While the upstream is left alone: neither a transfer, nor a wait with those whom that has not been told yet."""
    waited, cold = registry.add_blob(APP, blob(5000)), registry.add_blob(APP, blob(6000))
    held = registry.add_blob(APP, blob(7000))
    async with proxied(cache_dir, registry, clock, breaker={"failures": 1}) as proxy:
        assert (await proxy.pull(held)).body == held.data
        await proxy.quiet()
        gate = registry.hold_headers("*")
        first = asyncio.ensure_future(proxy.pull(waited))
        await gate.reached()
        asked = len(registry.requests)
        proxy.rooms.upstreams.endpoints(UPSTREAM)[0].breaker.enter().failed()
        assert proxy.rooms.downloads.find(waited.digest) is not None
        for wanted in (waited, cold):
            with pytest.raises(UpstreamUnavailable, match="left alone"):
                await proxy.rooms.pull.blob(proxy.rooms.rules.route(f"{UPSTREAM}/{APP}"), wanted.digest, want_body=True)
        assert proxy.rooms.downloads.find(cold.digest) is None
        assert (await first).status == 503
        assert (await proxy.pull(held)).body == held.data
        assert len([one for one in registry.requests if one.path != "/v2/"]) == asked
