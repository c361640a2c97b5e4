"""The scripted registry and Debian's docker-registry answer one journey alike, so that the fake cannot drift."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from proxy import oci
from tests.support import images
from tests.support.images import Image
from tests.support.origin import Origin
from tests.support.registry import Registry

pytestmark = pytest.mark.real

MISSING = "sha256:" + "0" * 64


@dataclass
class Held:
    """A registry that holds one image and one index under `team/app`, whichever kind it is."""

    url: str
    http: aiohttp.ClientSession
    image: Image
    index: Image

    async def ask(self, method: str, path: str, **headers: str) -> "Seen":
        sent = {"Accept": oci.ACCEPT, **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with self.http.request(method, self.url + path, headers=sent, allow_redirects=False) as answer:
            return Seen(answer.status, answer.headers, await answer.read())


@dataclass
class Seen:
    """An answer, reduced to what a client may rely on."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes

    @property
    def codes(self) -> list[str]:
        return [error["code"] for error in json.loads(self.body)["errors"]]

    def facts(self) -> tuple[Any, ...]:
        """Status, and the headers of content; the same for HEAD and GET."""
        names = ("Content-Type", "Content-Length", "Docker-Content-Digest", "Etag", "Docker-Distribution-Api-Version")
        return (self.status, *(self.headers.get(name) for name in names))


@pytest.fixture(params=["scripted", "docker-registry"])
async def held(request: pytest.FixtureRequest, tmp_path: Path, registry: Registry) -> AsyncIterator[Held]:
    """Each of the two registries in turn, holding the same images."""
    honest = Origin(tmp_path / "origin") if request.param == "docker-registry" else None
    image, index = images.manifest(images.layer({"big": bytes(range(256)) * 8})), images.index(docker=True)
    add: Callable[..., object] = registry.add if honest is None else honest.add
    add("team/app", "v1", image)
    add("team/app", "multi", index)
    add("team/app", "a0", image)
    if honest is not None:
        honest.start()
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        yield Held(registry.url if honest is None else honest.url, http, image, index)
    if honest is not None:
        honest.stop()


async def test_ping_says_which_api_it_is(held: Held) -> None:
    """`/v2/` answers 200 with an empty object and the API version."""
    seen = await held.ask("GET", "/v2/")
    assert (seen.status, seen.body) == (200, b"{}")
    assert seen.headers["Docker-Distribution-Api-Version"] == "registry/2.0"


async def test_manifests_are_answered_by_tag_and_digest_alike(held: Held) -> None:
    """HEAD and GET, by tag and by digest, of an image and an index: the same headers and the exact bytes."""
    for tag, image in (("v1", held.image), ("multi", held.index)):
        got = await held.ask("GET", f"/v2/team/app/manifests/{tag}")
        assert got.body == image.manifest.data
        assert got.facts() == (
            200,
            image.manifest.media_type,
            str(image.manifest.size),
            str(image.digest),
            f'"{image.digest}"',
            "registry/2.0",
        )
        for method, target in (("HEAD", tag), ("HEAD", image.digest), ("GET", image.digest)):
            seen = await held.ask(method, f"/v2/team/app/manifests/{target}")
            assert seen.facts() == got.facts()
            assert seen.body == (b"" if method == "HEAD" else image.manifest.data)


async def test_a_manifest_known_to_the_client_is_not_sent_again(held: Held) -> None:
    """If-None-Match with the digest answers 304 without a body."""
    seen = await held.ask("GET", "/v2/team/app/manifests/v1", If_None_Match=f'"{held.image.digest}"')
    assert (seen.status, seen.body) == (304, b"")


async def test_blobs_are_answered_whole(held: Held) -> None:
    """HEAD and GET of config and layer: length, digest, ETag, octet-stream, and the exact bytes."""
    for blob in held.image.blobs:
        got = await held.ask("GET", f"/v2/team/app/blobs/{blob.digest}")
        head = await held.ask("HEAD", f"/v2/team/app/blobs/{blob.digest}")
        assert got.body == blob.data
        facts = (200, "application/octet-stream", str(blob.size), str(blob.digest), f'"{blob.digest}"', "registry/2.0")
        assert got.facts() == head.facts() == facts


RANGES = {
    "closed": ("bytes=100-199", 100, 200),
    "open": ("bytes=100-", 100, None),
    "suffix": ("bytes=-50", -50, None),
    "first byte": ("bytes=0-0", 0, 1),
    "past the end": ("bytes=100-999999", 100, None),
}


@pytest.mark.parametrize("case", RANGES.values(), ids=RANGES.keys())
async def test_a_range_of_a_blob_is_exact(held: Held, case: tuple[str, int, int | None]) -> None:
    """206 with the range's own bytes, and a Content-Range that names them."""
    asked, start, stop = case
    layer = held.image.layers[0]
    seen = await held.ask("GET", f"/v2/team/app/blobs/{layer.digest}", Range=asked)
    wanted = layer.data[start:stop]
    first = start if start >= 0 else layer.size + start
    assert (seen.status, seen.body) == (206, wanted)
    assert seen.headers["Content-Range"] == f"bytes {first}-{first + len(wanted) - 1}/{layer.size}"


async def test_a_range_behind_the_end_is_refused(held: Held) -> None:
    """416 with the whole length in Content-Range."""
    layer = held.image.layers[0]
    # The body stays unread: docker-registry 2.8.2 declares the blob's length for it, and sends 33 bytes.
    async with held.http.get(
        f"{held.url}/v2/team/app/blobs/{layer.digest}", headers={"Range": "bytes=999999-"}
    ) as answer:
        assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{layer.size}")


async def test_a_range_of_other_content_is_ignored(held: Held) -> None:
    """If-Range with another ETag answers 200 with everything."""
    layer = held.image.layers[0]
    seen = await held.ask("GET", f"/v2/team/app/blobs/{layer.digest}", Range="bytes=5-9", If_Range='"else"')
    assert (seen.status, seen.body) == (200, layer.data)


NOT_FOUND = {
    "tag": ("/v2/team/app/manifests/none", "MANIFEST_UNKNOWN"),
    "manifest by digest": (f"/v2/team/app/manifests/{MISSING}", "MANIFEST_UNKNOWN"),
    "blob": (f"/v2/team/app/blobs/{MISSING}", "BLOB_UNKNOWN"),
    "blob of an unknown repository": (f"/v2/team/other/blobs/{MISSING}", "BLOB_UNKNOWN"),
    "tags of an unknown repository": ("/v2/team/other/tags/list", "NAME_UNKNOWN"),
}


@pytest.mark.parametrize("case", NOT_FOUND.values(), ids=NOT_FOUND.keys())
async def test_what_is_missing_answers_404_and_a_code(held: Held, case: tuple[str, str]) -> None:
    """404, the code of its kind in the OCI body; HEAD has the status and no body."""
    path, code = case
    seen = await held.ask("GET", path)
    assert (seen.status, seen.codes) == (404, [code])
    head = await held.ask("HEAD", path)
    # A list is not asked for by HEAD: the real registry refuses the method, the scripted one has nothing.
    assert head.status in ({404, 405} if path.endswith("/tags/list") else {404})
    assert head.body == b""


async def test_tags_are_listed(held: Held) -> None:
    """`tags/list` names the repository and all its tags; docker-registry in the order of its disk."""
    seen = await held.ask("GET", "/v2/team/app/tags/list")
    assert seen.status == 200
    listed = json.loads(seen.body)
    assert (listed["name"], sorted(listed["tags"])) == ("team/app", ["a0", "multi", "v1"])
