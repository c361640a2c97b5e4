"""Odd clients and upstreams: who never reads, leaves anywhere, sends odd headers, names or indexes, costs no others."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.config import parse
from proxy.oci import OCI_INDEX, OCI_MANIFEST
from tests.support.clock import Clock
from tests.support.images import Blob, Image, blob, index, manifest
from tests.support.leaks import Footprint
from tests.support.proxy import UPSTREAM, Proxy, config_text, running
from tests.support.pulling import Pulling
from tests.support.registry import Registry
from tests.support.waiting import turns
from tests.support.wire import Answer, Recorded

APP = "team/app"
MIB = 1 << 20


async def test_a_client_that_never_reads_costs_no_memory(proxy: Proxy, registry: Registry) -> None:
    """V38, T03: forty clients that ask for 16 MiB and read nothing: the answers stay on disk."""
    wanted = registry.add_blob(APP, blob(16 * MIB))
    assert (await proxy.pull(wanted)).body == wanted.data
    await proxy.quiet()
    before = Footprint.here().resident_bytes
    path = f"/v2/{UPSTREAM}/{APP}/blobs/{wanted.digest}"
    clients = [await Pulling.start(proxy.netloc, path, window=4096) for _ in range(40)]
    for client in clients:
        assert await client.head() == 200
    await turns(200)
    assert Footprint.here().resident_bytes - before < 48 * MIB
    for client in clients:
        client.vanish()


async def test_a_client_may_leave_at_any_sixteenth(proxy: Proxy, registry: Registry) -> None:
    """T04: whoever leaves, the blob is fetched once and kept."""
    for sixteenth in range(17):
        wanted = registry.add_blob(APP, blob(320_000, seed=sixteenth))
        pulling = await proxy.start_pull(wanted)
        await pulling.read(wanted.size * sixteenth // 16)
        pulling.vanish()
        await proxy.quiet()
        assert proxy.stored(wanted.digest) == wanted.data
        assert registry.requests_for(wanted.digest) == 1


ODD_VALUES = [
    "a\tb",
    "\x7f",
    "ü",
    "x" * 60_000,
    "text/html; charset=utf-8",
    "(){}<>",
    '"',
    "\\",
    "%0d%0aX: y",
    ";;;",
    ",",
]


def saying(header: str, value: str) -> Callable[[Recorded, Answer], Answer]:
    """A registry that puts one header into all its answers."""
    return lambda _request, answer: answer.with_header(header, value)


@pytest.mark.parametrize("header", ["Content-Type", "Docker-Content-Digest", "Etag", "Link", "OCI-Filters-Applied"])
async def test_an_odd_header_of_an_upstream_is_not_passed_on(proxy: Proxy, registry: Registry, header: str) -> None:
    """T06: what does not fit its grammar is left out or refused; the client's answer is well formed either way."""
    image = registry.add(APP, "1", manifest(blob(10)))
    for value in ODD_VALUES:
        registry.quirk = saying(header, value)
        for path in (f"{APP}/manifests/{image.digest}", f"{APP}/referrers/{image.digest}", f"{APP}/tags/list"):
            answer = await proxy.ask(path)
            is_refused = header == "Content-Type" and "/referrers/" in path  # what is no index is none
            assert (path, answer.status) == (path, 502 if is_refused else 200)
            told = answer.headers.get(header, "")
            assert told != value
            assert all(" " <= c <= "~" for c in told)


async def test_a_tag_is_of_its_upstream_whatever_rule_names_it(
    cache_dir: Path, registry: Registry, clock: Clock
) -> None:
    """T11: a rule whose upstream is changed answers from the new one, never with the old one's tag."""
    async with Registry() as other:
        registry.add(APP, "1", manifest(blob(10)))
        moved = other.add(APP, "1", manifest(blob(11)))
        sites = {UPSTREAM: registry, "other.test": other}
        upstreams = {name: {"endpoints": [{"url": site.url}], "plain_http": True} for name, site in sites.items()}
        for upstream, image in ((UPSTREAM, None), ("other.test", moved)):
            rules = [{"name": "own", "repository": "own/*", "upstream": f"{upstream}/*"}]
            text = (
                f"cache: {{directory: {cache_dir}}}\nupstreams: {json.dumps(upstreams)}\nrules: {json.dumps(rules)}\n"
            )
            async with running(text, clock) as proxy:
                answer = await proxy.ask(f"/v2/own/{APP}/manifests/1")
                assert answer.status == 200
                assert image is None or answer.body == image.manifest.data


async def test_an_index_that_names_itself_or_thousands_is_bounded(
    cache_dir: Path, registry: Registry, clock: Clock
) -> None:
    """T22: nested, cyclic and huge indexes are served as they are, and nothing below them is fetched unasked."""
    async with running(config_text(cache_dir, registry), clock) as proxy:
        nested = manifest(blob(10))
        for _ in range(50):
            nested = index(nested)
        registry.add(APP, "deep", nested)
        many = [{"mediaType": OCI_MANIFEST, "digest": f"sha256:{number:064x}", "size": 2} for number in range(5000)]
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": many}).encode()
        wide = registry.add(APP, "wide", Image(Blob.of(body, OCI_INDEX)))
        for tag, image in (("deep", nested), ("wide", wide)):
            assert (await proxy.ask(f"{APP}/manifests/{tag}")).body == image.manifest.data
        await proxy.rooms.hydrate.finished()
        await proxy.quiet()
        assert [request.path.rpartition("/")[2] for request in registry.requests] == ["deep", "wide"]


def test_an_upstream_with_an_international_name_is_shown_in_ascii() -> None:
    """T23: IDNA once, at load."""
    text = 'upstreams: {hub.test: {endpoints: [{url: "https://bücher.example"}]}}'
    config: Any = parse(text, "idn.yaml", {})
    assert [endpoint.url for endpoint in config.upstreams["hub.test"].endpoints] == ["https://xn--bcher-kva.example"]
