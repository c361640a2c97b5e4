"""What the other journeys leave of protocol.md, sections 2 and 3: manifests and blobs."""

import asyncio
import json

import pytest

from proxy.oci import ACCEPT, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Digest
from tests.support import script
from tests.support.images import Blob, Image, blob, manifest
from tests.support.proxy import UPSTREAM, Proxy
from tests.support.registry import Registry
from tests.support.wire import reply

APP = "team/app"
MIB = 1 << 20


# Manifests (section 2)


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["*/*"],
        [OCI_MANIFEST],
        [DOCKER_MANIFEST, f"{OCI_INDEX}, */*;q=0.1"],
        [f"{kind.strip()}" for kind in ACCEPT.split(",")],
        ["application/vnd.docker.distribution.manifest.v1+prettyjws"],
    ],
    ids=["none", "any", "its own type", "two lines", "a line for each", "an old type alone"],
)
async def test_whatever_a_client_accepts_it_gets_what_the_tag_names(
    proxy: Proxy, registry: Registry, image: Image, lines: list[str]
) -> None:
    """M07 to M10: the upstream hears our list, whatever lines the client sends; a type that it does not name is served
    all the same, under its true Content-Type (docs/reference.md), never another manifest than the tag's.
    """
    head = "".join(f"Accept: {line}\r\n" for line in lines)
    host, _, port = proxy.netloc.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET /v2/{UPSTREAM}/{APP}/manifests/1 HTTP/1.1\r\nHost: x\r\n{head}Connection: close\r\n\r\n".encode()
    )
    said = await reader.read()
    writer.close()
    assert said.startswith(b"HTTP/1.1 200")
    assert f"Content-Type: {OCI_MANIFEST}\r\n".encode() in said
    assert said.endswith(image.manifest.data)
    assert [request.headers.getall("Accept") for request in registry.recorded("1")] == [[ACCEPT]]


async def test_a_digest_of_another_algorithm_is_another_name(proxy: Proxy, registry: Registry, image: Image) -> None:
    """R07, M12: an upstream may name a manifest by its sha512; by either digest the bytes are the same, and checked."""
    long = Digest.of(image.manifest.data, "sha512")
    registry.script("1", script.set_header("Docker-Content-Digest", str(long)), times=1)
    named = image.manifest
    registry.repositories[APP].manifests[long] = named
    answer = await proxy.ask(f"{APP}/manifests/1")
    assert (answer.status, answer.body) == (200, named.data)
    assert answer.headers["Docker-Content-Digest"] == str(long)
    assert proxy.stored(long) == named.data
    registry.script(str(long), script.become(reply(200, b"{}", OCI_MANIFEST)), times=1)
    other = Digest.of(b"other", "sha512")
    registry.repositories[APP].manifests[other] = named
    assert (await proxy.ask(f"{APP}/manifests/{other}")).status == 502


async def test_a_manifest_of_four_mebibytes_is_served(proxy: Proxy, registry: Registry) -> None:
    """M13: the conformance suite's large manifest, 3.9 MB of annotations, is served; one byte above the cap is not."""
    document = json.loads(manifest(blob(10)).manifest.data)
    for size, status in ((4 * MIB, 200), (4 * MIB + 1, 502)):
        document["annotations"] = {"x": ""}
        document["annotations"]["x"] = "y" * (size - len(json.dumps(document)))
        large = registry.add(APP, "large", Image(Blob.of(json.dumps(document).encode(), OCI_MANIFEST)))
        assert large.manifest.size == size
        assert (await proxy.ask(f"{APP}/manifests/{large.digest}")).status == status


async def test_an_endless_manifest_is_cut_at_the_cap(proxy: Proxy, registry: Registry, image: Image) -> None:
    """V33: a body without an end is read to the cap and no further."""
    registry.script("1", script.endless, times=1)
    assert (await proxy.ask(f"{APP}/manifests/1")).status == 502
    assert registry.bytes_for("1") < 8 * MIB
    assert (await proxy.ask(f"{APP}/manifests/1")).body == image.manifest.data


# Blobs (section 3)


@pytest.mark.parametrize("kind", ["manifest", "blob", "referrers", "tags"])
async def test_nothing_is_ever_encoded(proxy: Proxy, registry: Registry, image: Image, kind: str) -> None:
    """B15, B16: whatever a client takes, bodies are identity with a length, and the upstream is asked for just that."""
    path, body = {
        "manifest": (f"{APP}/manifests/1", image.manifest.data),
        "blob": (f"{APP}/blobs/{image.layers[0].digest}", image.layers[0].data),
        "referrers": (f"{APP}/referrers/{image.digest}", None),
        "tags": (f"{APP}/tags/list", None),
    }[kind]
    for _ in range(2):
        answer = await proxy.ask(path, Accept_Encoding="zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")
        assert answer.status == 200
        assert "Content-Encoding" not in answer.headers
        assert "Transfer-Encoding" not in answer.headers
        assert answer.headers["Content-Length"] == str(len(answer.body))
        assert body is None or answer.body == body
    assert {request.headers["Accept-Encoding"] for request in registry.requests} == {"identity"}


async def test_blobs_are_answered_directly(proxy: Proxy, registry: Registry, image: Image) -> None:
    """B24: an upstream's redirect is followed here; no client is ever sent on."""
    async with Registry() as data:
        data.add_blob("x", image.layers[0])
        registry.redirect_blobs = lambda found: f"{data.url}/v2/x/blobs/{found.digest}"
        answer = await proxy.pull(image.layers[0])
        assert (answer.status, answer.body) == (200, image.layers[0].data)
        assert "Location" not in answer.headers
    await proxy.quiet()
