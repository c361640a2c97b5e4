"""A digest is served under a repository only once that repository is known to hold it, whoever fetched it before."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Blob, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, running
from tests.support.pulling import Pulling
from tests.support.registry import Registry
from tests.support.waiting import until
from tests.support.wire import Gate


@pytest.fixture
def secret(registry: Registry) -> Blob:
    """A blob that only team/private holds."""
    registry.add_blob("team/other", blob(10))
    return registry.add_blob("team/private", blob(200_000))


async def test_a_stored_blob_is_not_readable_through_another_repository(
    proxy: Proxy, registry: Registry, secret: Blob
) -> None:
    """GET and HEAD of a stored digest under a repository that lacks it answer as for a blob never seen."""
    await proxy.pull(secret, "team/private")
    await proxy.quiet()
    unseen = blob(777)
    for method in ("GET", "HEAD"):
        path = f"team/other/blobs/{secret.digest}"
        probed = await proxy.ask(path, method=method)
        never = await proxy.ask(f"team/other/blobs/{unseen.digest}", method=method)
        assert probed.status == never.status == 404
        assert {k: v for k, v in probed.headers.items() if k not in ("Date", "Content-Length")} == {
            k: v for k, v in never.headers.items() if k not in ("Date", "Content-Length")
        }


async def test_a_manifest_that_lists_a_digest_proves_nothing(proxy: Proxy, registry: Registry, secret: Blob) -> None:
    """Whoever pushes a manifest that names a private blob does not get to read it."""
    await proxy.pull(secret, "team/private")
    image = manifest(secret)
    here = registry.repositories.setdefault("evil/x", type(registry.repositories["team/private"])())
    here.manifests[image.digest] = image.manifest
    here.tags["1"] = image.digest
    assert (await proxy.ask("evil/x/manifests/1")).status == 200
    assert (await proxy.pull(secret, "evil/x")).status == 404
    await proxy.quiet()


async def test_a_second_repository_that_holds_it_costs_one_head(proxy: Proxy, registry: Registry, secret: Blob) -> None:
    """A layer shared by two repositories is fetched once; the second proves itself by one HEAD, once."""
    registry.add_blob("team/second", secret)
    await proxy.pull(secret, "team/private")
    await proxy.quiet()
    for _ in range(3):
        answer = await proxy.pull(secret, "team/second")
        assert answer.body == secret.data
    assert registry.requests_for(secret.digest) == 1
    assert registry.requests_for(secret.digest, "HEAD") == 1


async def test_joining_a_running_transfer_needs_proof_too(proxy: Proxy, registry: Registry, secret: Blob) -> None:
    """While team/private's transfer runs, a repository that lacks the blob gets a 404, one that holds it joins."""
    registry.add_blob("team/second", secret)
    gate = registry.hold(secret.digest, after_bytes=1000)
    first = await proxy.start_pull(secret, "team/private")
    await gate.reached()
    assert (await proxy.pull(secret, "team/other")).status == 404
    second = await proxy.start_pull(secret, "team/second")
    assert await second.head() == 200
    assert second.headers["Cache-Status"].endswith("; fwd=miss; collapsed; stored")
    gate.open()
    assert await first.rest() == await second.rest() == secret.data
    holders = [f"/v2/{name}/blobs/{secret.digest}" for name in ("team/private", "team/second")]
    assert sum(map(registry.requests_for, holders)) == 1
    await proxy.quiet()


async def joined(proxy: Proxy, wanted: Blob, place: str) -> Pulling:
    """A second client, by way of another place, once it waits for the same bytes as the first."""
    second = await proxy.start_pull(wanted, place)
    await until(lambda: proxy.rooms.downloads.readers == 2)
    return second


@pytest.mark.parametrize("asked", ["GET", "range"])
async def test_whoever_started_a_transfer_without_holding_the_blob_gets_none_of_it(
    proxy: Proxy, registry: Registry, secret: Blob, asked: str
) -> None:
    """A place that asks first, whose upstream answers late that it has no such blob, is not served another's bytes."""
    gate = registry.hold_headers(f"/v2/team/other/blobs/{secret.digest}", methods=("GET",))
    headers = {"Range": "bytes=0-9"} if asked == "range" else {}
    first = await proxy.start_pull(secret, "team/other", **headers)
    await gate.reached()
    second = await joined(proxy, secret, "team/private")
    gate.open()
    assert await second.rest() == secret.data
    assert await first.head() == 404
    await first.leave()
    await proxy.quiet()
    assert (await proxy.pull(secret, "team/other")).status == 404
    assert proxy.stored(secret.digest) == secret.data


async def test_an_origin_that_is_away_does_not_hold_up_another(proxy: Proxy, registry: Registry, secret: Blob) -> None:
    """Who asked through a failing repository gets its failure; who joined through a good one gets the blob."""
    failing = f"/v2/team/second/blobs/{secret.digest}"
    gate = Gate()
    registry.script(failing, script.error(503), script.gate_headers(gate))
    first = await proxy.start_pull(secret, "team/second")
    await gate.reached()
    second = await joined(proxy, secret, "team/private")
    gate.open()
    assert await second.rest() == secret.data
    assert await first.head() == 503
    await first.leave()
    await proxy.quiet()


async def test_a_transfer_cut_for_good_goes_on_from_another_repository(
    proxy: Proxy, registry: Registry, secret: Blob
) -> None:
    """When resuming from the first origin fails, a proven second one goes on at the offset, and nobody notices."""
    registry.add_blob("team/second", secret)
    cut, gate = f"/v2/team/private/blobs/{secret.digest}", Gate()
    registry.script(cut, script.error(503))
    registry.script(cut, script.gate(gate, 150_000), script.cut(150_000), times=1)
    first = await proxy.start_pull(secret, "team/private")
    await gate.reached()
    second = await joined(proxy, secret, "team/second")
    gate.open()
    assert await first.rest() == await second.rest() == secret.data
    (resumed,) = registry.recorded(f"/v2/team/second/blobs/{secret.digest}")
    assert resumed.headers["Range"] == "bytes=150000-"
    await proxy.quiet()


async def test_an_alternate_takes_over_from_an_origin_that_lies(proxy: Proxy, registry: Registry, secret: Blob) -> None:
    """When the first origin's bytes are wrong, a proven second one is asked before anybody gives up."""
    registry.add_blob("team/second", secret)
    gate = Gate()
    registry.script(
        f"/v2/team/private/blobs/{secret.digest}", script.spoil(150_000), script.gate(gate, secret.size - 10)
    )
    first = await proxy.start_pull(secret, "team/private")
    await first.head()
    await gate.reached()
    second = await proxy.start_pull(secret, "team/second", Range="bytes=190000-")
    assert await second.head() == 206
    gate.open()
    assert await second.rest() == secret.data[190_000:]
    with pytest.raises(ConnectionError):
        await first.rest()  # it may have been sent wrong bytes
    await proxy.quiet()
    assert proxy.stored(secret.digest) == secret.data


CONFIG = """
cache: {{directory: {cache}}}
upstreams:
  {upstream}:
    endpoints: [{{url: "{url}"}}]
    plain_http: true
    allow_insecure_credentials: true
credentials:
  team: {{username: me, password: {{file: {secret}}}}}
rules:
  - {{name: private, repository: private/*, upstream: {upstream}/team/*, credentials: team}}
  - {{name: open, repository: open/*, upstream: {upstream}/*}}
"""


@pytest.fixture
async def two_scopes(cache_dir: Path, short_tmp: Path, registry: Registry, clock: Clock) -> AsyncIterator[Proxy]:
    """One upstream seen by two rules: one with credentials, one anonymous."""
    password = short_tmp / "password"
    password.write_text("hunter2")
    text = CONFIG.format(cache=cache_dir, upstream=UPSTREAM, url=registry.url, secret=password)
    async with running(text, clock) as proxy:
        yield proxy


async def test_credential_sets_do_not_share_what_they_know(two_scopes: Proxy, registry: Registry, secret: Blob) -> None:
    """What one credential set may read is asked again with another: one repository under two rules is two places."""
    path = f"/v2/private/private/blobs/{secret.digest}"
    assert (await two_scopes.ask(path)).body == secret.data
    await two_scopes.quiet()
    registry.script(secret.digest, script.error(401, "UNAUTHORIZED"), methods=("GET", "HEAD"))
    anonymous = await two_scopes.ask(f"/v2/open/team/private/blobs/{secret.digest}")
    assert anonymous.status == 404
    assert (await two_scopes.ask(path)).body == secret.data


async def test_eight_at_once_of_two_repositories(proxy: Proxy, registry: Registry, secret: Blob) -> None:
    """Clients of two repositories that ask for one blob at the same instant cost one body."""
    registry.add_blob("team/second", secret)
    repositories = ["team/private", "team/second"] * 4
    answers = await asyncio.gather(*(proxy.pull(secret, repository) for repository in repositories))
    assert {answer.body for answer in answers} == {secret.data}
    assert registry.requests_for(secret.digest) == 1
    await proxy.quiet()
