"""Manifests of every known shape are read; those that lie or overflow are ambiguous, and nothing else is raised."""

import json

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import oci
from proxy.oci import Digest, Manifest, ManifestAmbiguous, parse_manifest

HEX = "0123456789abcdef" * 4
DIGEST = Digest.parse(f"sha256:{HEX}")


def descriptor(media_type: str = oci.OCTETS, size: object = 2, digest: object = str(DIGEST)) -> dict[str, object]:
    return {"mediaType": media_type, "size": size, "digest": digest}


def body(**members: object) -> bytes:
    return orjson.dumps({"schemaVersion": 2, **members})


CONFIG = descriptor("application/vnd.oci.image.config.v1+json")
LAYER = descriptor("application/vnd.oci.image.layer.v1.tar+gzip", 7)


@pytest.mark.parametrize(
    ("content", "header", "media_type", "children"),
    [
        pytest.param(body(config=CONFIG, layers=[LAYER]), oci.DOCKER_MANIFEST, oci.DOCKER_MANIFEST, 2, id="schema2"),
        pytest.param(body(manifests=[LAYER]), oci.DOCKER_LIST, oci.DOCKER_LIST, 1, id="manifest list"),
        pytest.param(body(config=CONFIG, layers=[LAYER]), None, oci.OCI_MANIFEST, 2, id="image by structure"),
        pytest.param(body(manifests=[LAYER]), None, oci.OCI_INDEX, 1, id="index by structure"),
        pytest.param(body(mediaType=oci.DOCKER_LIST), "text/plain", oci.DOCKER_LIST, 0, id="body over foreign header"),
        pytest.param(body(manifests=[]), f"{oci.OCI_INDEX}; x=y", oci.OCI_INDEX, 0, id="empty index, parameters"),
        pytest.param(body(config=CONFIG, layers=None), oci.OCI_MANIFEST, oci.OCI_MANIFEST, 1, id="null layers"),
        pytest.param(body(config=CONFIG), oci.OCI_MANIFEST, oci.OCI_MANIFEST, 1, id="no layers"),
        pytest.param(body(blobs=[LAYER]), oci.OCI_ARTIFACT, oci.OCI_ARTIFACT, 1, id="artifact manifest"),
        pytest.param(body(config=CONFIG, custom={"x": [1]}), None, oci.OCI_MANIFEST, 1, id="unknown fields"),
        pytest.param(body(layers=[descriptor(size=0)]), None, oci.OCI_MANIFEST, 1, id="zero-byte blob"),
        pytest.param(
            body(layers=[descriptor(digest=str(Digest.of(b"", "sha512")))]), None, oci.OCI_MANIFEST, 1, id="sha512"
        ),
    ],
)
def test_a_manifest_of_any_known_shape_is_read(
    content: bytes, header: str | None, media_type: str, children: int
) -> None:
    """The header names the media type, else the body, else its structure (M11, M18)."""
    manifest = parse_manifest(content, header)
    assert (manifest.media_type, len(manifest.children)) == (media_type, children)
    assert manifest.is_image is (media_type in oci.IMAGE_TYPES)


def test_children_are_told_by_media_type() -> None:
    """A BuildKit cache index lists layers among its manifests, and foreign layers are marked (M17, M18)."""
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    legal = "application/vnd.oci.image.layer.nondistributable.v1.tar"
    listed = [descriptor(oci.OCI_MANIFEST), LAYER, descriptor(foreign), descriptor(legal)]
    found = parse_manifest(body(manifests=listed), oci.OCI_INDEX).children
    assert [child.is_manifest for child in found] == [True, False, False, False]
    assert [child.is_foreign for child in found] == [False, False, True, True]


def test_subject_and_artifact_type_are_kept() -> None:
    """A referrer names the digest it speaks of."""
    content = body(config=CONFIG, subject=descriptor(oci.OCI_MANIFEST), artifactType="text/sbom")
    manifest = parse_manifest(content, oci.OCI_MANIFEST)
    assert (manifest.subject, manifest.artifact_type) == (DIGEST, "text/sbom")
    assert parse_manifest(body(config=CONFIG, artifactType=7), None).artifact_type is None


DEEP = b"[" * 500 + b"]" * 500
DEEPER = b"[" * 1020 + b"]" * 1020


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html>hello</html>", id="HTML"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[" * 100_000, id="depth bomb"),
        pytest.param(b'{"a":' * 100_000, id="depth bomb of objects"),
        pytest.param(b'{"schemaVersion":' + DEEP + b"}", id="deep schemaVersion"),
        pytest.param(b'{"schemaVersion":2,"layers":[],"x":' + DEEPER + b"}", id="deeper than the interpreter goes"),
        pytest.param(b'{"schemaVersion":2,"config":{"size":' + DEEP + b"}}", id="deep size"),
        pytest.param(b'{"schemaVersion":' + b"9" * 5000 + b"}", id="5000 digits"),
        pytest.param(b'{"schemaVersion":2,"x":' + b"9" * 5000 + b"}", id="5000 digits beside"),
        pytest.param(b'{"schemaVersion":2,"x":NaN}', id="NaN"),
        pytest.param(b'{"schemaVersion":2,"x":-Infinity}', id="Infinity"),
        pytest.param(b'{"schemaVersion":2,"x":"\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"schemaVersion":2,"x":"\xff"}', id="not UTF-8"),
        pytest.param(b'\xef\xbb\xbf{"schemaVersion":2,"layers":[]}', id="BOM"),
        pytest.param('{"schemaVersion":2}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"schemaVersion":2,"layers":[],"layers":[]}', id="one key twice"),
        pytest.param(b'{"schemaVersion":2,"layers":[],"l\\u0061yers":[]}', id="one key twice, escaped"),
        pytest.param(b'{"schemaVersion":2,"config":{"size":1,"size":2}}', id="one key twice, below"),
        pytest.param(b'{"schemaVersion":1,"fsLayers":[]}', id="schema 1"),
        pytest.param(body(manifests=[], layers=[]), id="index and image"),
        pytest.param(body(manifests=[], config=CONFIG), id="index and config"),
        pytest.param(body(mediaType=oci.OCI_INDEX, layers=[]), id="index type, image content"),
        pytest.param(body(mediaType=oci.OCI_INDEX, config=CONFIG), id="index type, config"),
        pytest.param(body(mediaType=oci.OCI_MANIFEST, manifests=[]), id="image type, index content"),
        pytest.param(body(mediaType="text/html"), id="not a manifest's type"),
        pytest.param(body(mediaType="x" * 100_000), id="endless type"),
        pytest.param(body(mediaType=7), id="type is a number"),
        pytest.param(body(layers={}), id="layers is an object"),
        pytest.param(body(layers=False), id="layers is false"),
        pytest.param(body(layers=[7]), id="descriptor is a number"),
        pytest.param(body(layers=[descriptor(size=-1)]), id="negative size"),
        pytest.param(body(layers=[descriptor(size=True)]), id="size is true"),
        pytest.param(body(layers=[descriptor(size=1.5)]), id="size is a fraction"),
        pytest.param(body(layers=[descriptor(size=1 << 63)]), id="size beyond int64"),
        pytest.param(body(layers=[descriptor(digest="sha256:x")]), id="bad digest"),
        pytest.param(body(layers=[descriptor(digest=7)]), id="digest is a number"),
        pytest.param(body(config=CONFIG, subject="x"), id="subject is text"),
    ],
)
def test_a_manifest_that_lies_or_overflows_is_ambiguous(content: bytes) -> None:
    """Bad JSON, and a body that says two things at once, raise ManifestAmbiguous and nothing else (V06, V49)."""
    with pytest.raises(ManifestAmbiguous) as caught:
        parse_manifest(content, None)
    assert len(str(caught.value)) < 400


def test_header_and_body_must_agree() -> None:
    """A Content-Type and a mediaType that name different manifests are refused (CVE-2021-41190, V06)."""
    with pytest.raises(ManifestAmbiguous, match="Content-Type"):
        parse_manifest(body(mediaType=oci.OCI_INDEX, manifests=[]), oci.DOCKER_LIST)
    with pytest.raises(ManifestAmbiguous, match="does not fit"):
        parse_manifest(body(manifests=[]), oci.OCI_MANIFEST)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = ["config", "layers", "manifests", "blobs", "subject", "mediaType", "artifactType", "size", "digest"]


@given(
    st.binary(max_size=50)
    | st.fixed_dictionaries({"schemaVersion": st.just(2)}, optional=dict.fromkeys(MEMBERS, JSON)).map(
        lambda document: json.dumps(document).encode()
    ),
    st.none() | st.sampled_from(sorted(oci.MANIFEST_TYPES)) | st.text(max_size=20),
)
def test_reading_a_manifest_raises_nothing_else(content: bytes, header: str | None) -> None:
    """Any bytes under any Content-Type give a Manifest of a known type, or ManifestAmbiguous."""
    try:
        manifest = parse_manifest(content, header)
    except ManifestAmbiguous:
        return
    assert isinstance(manifest, Manifest)
    assert manifest.media_type in oci.MANIFEST_TYPES
