"""Tag lists, referrers and the catalog through the whole proxy."""

import json
from typing import Any
from urllib.parse import quote

import pytest

from proxy.listings import paginate
from proxy.oci import OCI_INDEX, Digest
from tests.support import script
from tests.support.clock import Clock
from tests.support.images import Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy
from tests.support.registry import Registry
from tests.support.wire import reply

APP = "team/app"
TAGS = f"{APP}/tags/list"


@pytest.fixture
def image(registry: Registry) -> Image:
    made = manifest(blob(2000))
    for tag in ("b", "a", "c"):
        registry.add(APP, tag, made)
    return made


def tags_of(body: bytes) -> list[str]:
    found: list[str] = json.loads(body)["tags"]
    return found


async def test_tags_are_listed_sorted_under_the_clients_name(proxy: Proxy, registry: Registry, image: Image) -> None:
    """The list names the repository as the client asked, sorted, and is asked upstream once per `fresh_for`."""
    for path, name in ((f"/v2/{UPSTREAM}/{TAGS}", f"{UPSTREAM}/{APP}"), (f"/v2/{TAGS}?ns={UPSTREAM}", APP)):
        answer = await proxy.ask(path)
        assert json.loads(answer.body) == {"name": name, "tags": ["a", "b", "c"]}
        assert answer.headers["Content-Type"] == "application/json"
    assert len(registry.recorded("list")) == 1


async def test_new_tags_appear(proxy: Proxy, registry: Registry, clock: Clock, image: Image) -> None:
    """A list is cached for moments only."""
    await proxy.ask(TAGS)
    registry.add(APP, "d", image)
    clock.advance(61)
    assert tags_of((await proxy.ask(TAGS)).body) == ["a", "b", "c", "d"]


async def test_pages_link_to_this_host(proxy: Proxy, registry: Registry, image: Image) -> None:
    """`n` and `last` page through the list; each Link is relative, keeps `ns`, and ends where the list does."""
    found, path = [], f"/v2/{TAGS}?ns={UPSTREAM}&n=2"
    while path:
        answer = await proxy.ask(path)
        found.append(tags_of(answer.body))
        link = answer.headers.get("Link", "")
        path = link.partition("<")[2].partition(">")[0]
        assert not link or (link.endswith('; rel="next"') and path.startswith(f"/v2/{TAGS}?ns={UPSTREAM}&"))
    assert found == [["a", "b"], ["c"]]


@pytest.mark.parametrize("n", ["-1", "abc", "1e3", "", "٣", "1" * 30])
async def test_a_bad_n_is_refused(proxy: Proxy, registry: Registry, image: Image, n: str) -> None:
    """An `n` that is no count is a 400 of the pagination's own code, and nobody is asked."""
    for path in (f"/v2/{UPSTREAM}/{TAGS}?n={quote(n)}", f"/v2/_catalog?n={quote(n)}"):
        answer = await proxy.ask(path)
        assert (answer.status, answer.code) == (400, "PAGINATION_NUMBER_INVALID")
    assert registry.requests == []


async def test_a_huge_n_is_clamped(proxy: Proxy, registry: Registry, image: Image) -> None:
    """The upstream is asked for at most our own page size; n=0 is an empty page that asks nobody."""
    assert tags_of((await proxy.ask(f"{TAGS}?n=1000000000000")).body) == ["a", "b", "c"]
    assert registry.recorded("list")[0].query["n"] == "10000"
    nothing = await proxy.ask(f"{TAGS}?n=0")
    assert (tags_of(nothing.body), "Link" in nothing.headers) == ([], False)


async def test_with_the_upstream_away_the_tags_that_are_here_are_listed(
    proxy: Proxy, registry: Registry, image: Image
) -> None:
    """Known tags are listed, marked stale; with none known the outage is told."""
    await proxy.ask(f"{APP}/manifests/a")
    await registry.stop()
    answer = await proxy.ask(TAGS)
    assert (answer.status, tags_of(answer.body)) == (200, ["a"])
    assert answer.headers["Warning"].startswith('299 - "stale: ')
    assert (await proxy.ask("team/never/tags/list")).status == 503


async def test_an_unknown_repository_is_name_unknown(proxy: Proxy, registry: Registry) -> None:
    """A repository that the upstream does not know is 404 NAME_UNKNOWN."""
    answer = await proxy.ask("team/never/tags/list")
    assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")


LIES: dict[str, Any] = {
    "html": script.html(),
    "not json": script.become(reply(200, b"{", "application/json")),
    "no list": script.become(reply(200, b'{"tags": {"a": 1}}', "application/json")),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_lying_list_is_a_502(proxy: Proxy, registry: Registry, image: Image, lie: Any) -> None:
    """What is no tag list is never passed on."""
    registry.script("list", lie)
    assert (await proxy.ask(TAGS)).status == 502


def attest(registry: Registry, subject: Digest, kind: str) -> Image:
    extra = {"subject": {"mediaType": OCI_INDEX, "digest": str(subject), "size": 1}, "artifactType": kind}
    return registry.add(APP, None, manifest(blob(50), extra=extra))


async def test_referrers_are_an_index(proxy: Proxy, registry: Registry, image: Image) -> None:
    """The referrers of a digest are the upstream's index under its exact media type; none is an empty index."""
    signature = attest(registry, image.digest, "application/vnd.example.signature")
    answer = await proxy.ask(f"{APP}/referrers/{image.digest}")
    assert (answer.status, answer.headers["Content-Type"]) == (200, OCI_INDEX)
    assert [entry["digest"] for entry in json.loads(answer.body)["manifests"]] == [str(signature.digest)]
    none = await proxy.ask(f"{APP}/referrers/{Digest.of(b'none')}")
    assert (none.status, json.loads(none.body)["manifests"]) == (200, [])


async def test_referrers_that_are_here_are_told_when_the_upstream_is_away(
    proxy: Proxy, registry: Registry, clock: Clock, image: Image
) -> None:
    """A held signature is still found with the upstream stopped, filtered by its type if asked so."""
    signature = attest(registry, image.digest, "application/vnd.example.signature")
    await proxy.ask(f"{APP}/manifests/{signature.digest}")
    await registry.stop()
    path = f"{APP}/referrers/{image.digest}"
    answer = await proxy.ask(path)
    (entry,) = json.loads(answer.body)["manifests"]
    assert (entry["digest"], entry["artifactType"]) == (str(signature.digest), "application/vnd.example.signature")
    assert "Warning" in answer.headers
    filtered = await proxy.ask(f"{path}?artifactType=other")
    assert json.loads(filtered.body)["manifests"] == []
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"


async def test_an_upstream_without_the_api_is_a_404_that_lets_clients_fall_back(
    proxy: Proxy, registry: Registry, image: Image
) -> None:
    """Where the upstream lacks referrers the answer is 404 MANIFEST_UNKNOWN, never NAME_UNKNOWN (oras would stop)."""
    registry.script(image.digest, script.error(404, "NAME_UNKNOWN"))
    answer = await proxy.ask(f"{APP}/referrers/{image.digest}")
    assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")


async def test_the_catalog_is_what_is_here(proxy: Proxy, registry: Registry, image: Image) -> None:
    """`_catalog` never asks upstream; it lists what was pulled, in pages."""
    assert json.loads((await proxy.ask("/v2/_catalog")).body) == {"repositories": []}
    registry.add("team/zeta", "1", image)
    for repository in (APP, "team/zeta"):
        await proxy.ask(f"{repository}/manifests/{image.digest}")
    registry.forget()
    assert json.loads((await proxy.ask("/v2/_catalog")).body) == {
        "repositories": [f"{UPSTREAM}/{APP}", f"{UPSTREAM}/team/zeta"]
    }
    first = await proxy.ask("/v2/_catalog?n=1")
    assert first.headers["Link"].startswith("</v2/_catalog?n=1&last=")
    assert registry.requests == []


def test_pages_are_cut_after_last() -> None:
    """A page starts behind `last`, holds at most `n`, and says whether more follow."""
    assert paginate(["b", "a"], 1, None) == (["a"], True)
    assert paginate(["b", "a"], 2, "a") == (["b"], False)
    assert paginate([], 0, None) == ([], False)
