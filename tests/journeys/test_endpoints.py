"""Several endpoints of one upstream, and what a failed transfer leaves: through the whole proxy, scripted upstreams."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.errors import UpstreamUnavailable
from proxy.events import TransferResumed
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, config_text, proxied, running
from tests.support.realm import Bearer, Realm
from tests.support.registry import Registry
from tests.support.site import settled
from tests.support.wire import Fault

MIB = 1 << 20
APP = "team/app"
TAG = f"{APP}/manifests/1"
PINNED = """
rules:
  - {name: first, repository: pinned/*, upstream: origin.test/team/*, endpoint: "URL"}
"""
# Both rules lead to one place.
PINNED_AND_NOT = PINNED + "  - {name: any, repository: any/*, upstream: origin.test/team/*}\n"


@pytest.fixture
async def second(registry: Registry) -> AsyncIterator[Registry]:
    """Another endpoint of the same upstream."""
    async with Registry() as started:
        yield started


@pytest.fixture
def wanted(registry: Registry, second: Registry) -> Blob:
    """A blob that both endpoints hold."""
    image = manifest(blob(2000))
    registry.add(APP, "1", image)
    second.add(APP, "1", image)
    return second.add_blob(APP, registry.add_blob(APP, blob(3 * MIB + 777)))


@asynccontextmanager
async def both(
    cache: Path, registry: Registry, second: Registry, clock: Clock, extra: str = "", **keys: object
) -> AsyncIterator[Proxy]:
    """A proxy whose upstream has both endpoints, in this order."""
    endpoints = [{"url": registry.url}, {"url": second.url}]
    timeouts = {"connect": "1s", "headers": "1s", "stall": "300ms"}
    keys = {"endpoints": endpoints, "timeouts": timeouts, "breaker": {"failures": 3}, **keys}
    async with proxied(cache, registry, clock, f"hydrate: {{image: none}}\n{extra}", **keys) as proxy:
        proxy.hear(TransferResumed)
        yield proxy


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


async def test_a_pinned_rule_never_leaves_its_endpoint(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock, wanted: Blob
) -> None:
    """`endpoint:` fails clearly when that one is away, in mid-body too; the upstream's other names go on."""
    pinned = PINNED.replace("URL", registry.url)
    async with both(cache_dir, registry, second, clock, pinned) as proxy:
        registry.script(wanted.digest, script.cut(MIB), script.cut(0))
        registry.script(wanted.digest, script.cut(MIB), times=1)
        with pytest.raises(ConnectionError):
            await proxy.ask(f"/v2/pinned/app/blobs/{wanted.digest}")
        await proxy.quiet()
        assert second.requests == []
        await registry.stop()
        answer = await proxy.ask("/v2/pinned/app/manifests/1")
        assert (answer.status, answer.code) == (503, "UNAVAILABLE")
        assert second.requests == []
        second.add("other/app", "1", manifest(blob(2000)))
        assert (await proxy.ask("other/app/manifests/1")).status == 200


async def test_a_pinned_rule_s_outage_is_not_told_to_the_upstream_s_other_names(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock, wanted: Blob
) -> None:
    """A failed check of a pinned endpoint is remembered for its own rule: the other asks on, and is fresh."""
    async with both(cache_dir, registry, second, clock, PINNED_AND_NOT.replace("URL", registry.url)) as proxy:
        assert (await proxy.ask("/v2/any/app/manifests/1")).status == 200
        clock.advance(61)
        await registry.stop()
        stale = await proxy.ask("/v2/pinned/app/manifests/1")
        assert (stale.status, "Warning" in stale.headers) == (200, True)
        fresh = await proxy.ask("/v2/any/app/manifests/1")
        assert (fresh.status, "Warning" in fresh.headers) == (200, False)


@pytest.mark.parametrize("first", ["tag", "digest", "blob"])
async def test_what_a_pinned_endpoint_lacks_is_not_missing_under_the_upstream_s_other_names(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock, first: str
) -> None:
    """A 404 is remembered of the endpoint that said it, and told again to its own rule alone."""
    image = registry.add(APP, "new", manifest(blob(3000)))
    target = {
        "tag": "manifests/new",
        "digest": f"manifests/{image.digest}",
        "blob": f"blobs/{image.layers[0].digest}",
    }[first]
    async with both(cache_dir, registry, second, clock, PINNED_AND_NOT.replace("URL", second.url)) as proxy:
        assert (await proxy.ask(f"/v2/pinned/app/{target}")).status == 404
        await proxy.quiet()
        assert (await proxy.ask(f"/v2/pinned/app/{target}", method="HEAD")).status == 404
        assert (await proxy.ask(f"/v2/any/app/{target}")).status == 200


async def test_a_pinned_endpoint_s_tag_list_is_its_own(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock, wanted: Blob
) -> None:
    """A list is cached for the endpoints that may have told it."""
    second.add(APP, "2", manifest(blob(3000)))
    async with both(cache_dir, registry, second, clock, PINNED_AND_NOT.replace("URL", second.url)) as proxy:
        listed = [json.loads((await proxy.ask(f"/v2/{name}/app/tags/list")).body) for name in ("pinned", "any")]
    assert [told["tags"] for told in listed] == [["1", "2"], ["1"]]


async def test_one_who_joins_a_pinned_transfer_does_not_hear_its_404(
    cache_dir: Path, registry: Registry, second: Registry, clock: Clock
) -> None:
    """While a pinned endpoint has not answered yet, the upstream's other names join by their own endpoints' word."""
    layer = registry.add_blob(APP, blob(200_000))
    second.add_blob(APP, blob(10))
    gate = second.hold_headers(layer.digest, methods=("GET",))
    async with both(cache_dir, registry, second, clock, PINNED_AND_NOT.replace("URL", second.url)) as proxy:
        pinned = await proxy.start(f"/v2/pinned/app/blobs/{layer.digest}")
        await gate.reached()
        other = await proxy.start(f"/v2/any/app/blobs/{layer.digest}")
        while proxy.rooms.downloads.readers < 2:
            await settled()
        gate.open()
        assert await other.rest() == layer.data
        assert await pinned.head() == 404
        await pinned.leave()
        await proxy.quiet()


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
