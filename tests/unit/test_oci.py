"""The nouns of the specs: what is accepted, what is refused, and manifests that lie or overflow."""

import json
import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import oci
from proxy.errors import ClientFault, DigestInvalid, NameInvalid, TagInvalid
from proxy.oci import HEX_LENGTH, Digest, Manifest, ManifestAmbiguous, Reference, Span, parse_manifest

HEX = "0123456789abcdef" * 4
DIGEST = Digest.parse(f"sha256:{HEX}")
SAFE = re.compile(r"[a-z0-9:]+", re.ASCII)
# Odd text that is close to the grammar, so that the properties meet its edges.
NEAR = st.text(st.sampled_from("abzAZ09._-/:%\n\0 ٣ŝ．\udc80"), max_size=40)
ANY = NEAR | st.text(max_size=300)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("nginx", id="one component"),
        pytest.param("library/nginx", id="two"),
        pytest.param("a/manifests/b/blobs/tags/referrers", id="words of the paths"),
        pytest.param("a.b_c__d-e---f/0", id="every separator"),
        pytest.param("a" * 255, id="255 characters"),
    ],
)
def test_a_name_of_the_grammar_is_a_repository(name: str) -> None:
    """Names as the distribution spec has them are taken as they are."""
    assert oci.repository(name) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("Nginx", id="upper case"),
        pytest.param("a" * 256, id="256 characters"),
        pytest.param("a//b", id="empty component"),
        pytest.param("/a", id="leading slash"),
        pytest.param("a/", id="trailing slash"),
        pytest.param("..", id="dots"),
        pytest.param("a/../b", id="traversal"),
        pytest.param("a/./b", id="dot"),
        pytest.param("a.", id="trailing dot"),
        pytest.param("-a", id="leading dash"),
        pytest.param("a..b", id="two dots"),
        pytest.param("a___b", id="three underscores"),
        pytest.param("a.-b", id="mixed separators"),
        pytest.param("a\n", id="trailing newline"),
        pytest.param("a\0", id="NUL"),
        pytest.param("a b", id="space"),
        pytest.param("a:5000/b", id="port"),
        pytest.param("a%2fb", id="percent"),
        pytest.param("a\\b", id="backslash"),
        pytest.param("a٣", id="Arabic digit"),
        pytest.param("ŝ", id="letter beyond ASCII"),
        pytest.param("a．b", id="full-width dot"),
        pytest.param("a\udcff", id="lone surrogate"),
    ],
)
def test_any_other_name_is_refused(name: str) -> None:
    """What the grammar does not allow is NameInvalid, however close it comes (R03, V41)."""
    with pytest.raises(NameInvalid):
        oci.repository(name)


@pytest.mark.parametrize("tag", ["latest", "_", "v1.0-rc_1", "1", "A" * 128])
def test_a_tag_of_the_grammar_is_a_tag(tag: str) -> None:
    """Tags as the distribution spec has them are taken as they are."""
    assert oci.tag(tag) == tag


@pytest.mark.parametrize(
    "tag",
    ["", ".a", "-a", "a" * 129, "latest\n", "a/b", "a:b", "a b", "a\0", "٣", "lat\u212aest", "a．b", "a%00", "\udc80"],
    ids=ascii,
)
def test_any_other_tag_is_refused(tag: str) -> None:
    """129 characters, a newline at the end or a digit of another script make no tag (R05, V41)."""
    with pytest.raises(TagInvalid):
        oci.tag(tag)


@pytest.mark.parametrize("algorithm", HEX_LENGTH)
def test_registered_algorithms_are_parsed_and_hash(algorithm: str) -> None:
    """Each registered algorithm has its own length, its own hash and a text that parses back (R07)."""
    digest = Digest.of(b"layer", algorithm)
    assert Digest.parse(str(digest)) == digest
    assert digest.matches(b"layer")
    assert not digest.matches(b"other")
    hasher = digest.hasher()
    hasher.update(b"layer")
    assert hasher.hexdigest() == digest.encoded


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"sha256:{HEX[1:]}", id="63 digits"),
        pytest.param(f"sha256:{HEX}0", id="65 digits"),
        pytest.param(f"sha256:{HEX.upper()}", id="upper case"),
        pytest.param(f"sha256:{'g' * 64}", id="not hexadecimal"),
        pytest.param("sha256:../x", id="traversal"),
        pytest.param("sha256:a/b", id="slash"),
        pytest.param("sha256:baddigeststring", id="conformance suite"),
        pytest.param("md5:d41d8cd98f00b204e9800998ecf8427e", id="md5"),
        pytest.param(f"blake3:{HEX}", id="unknown algorithm"),
        pytest.param(f"sha512:{HEX}", id="sha512 with 64 digits"),
        pytest.param(f"SHA256:{HEX}", id="upper-case algorithm"),
        pytest.param(f"sha256:{HEX}\n", id="trailing newline"),
        pytest.param(f"sha256:{HEX[:-1]}٣", id="Arabic digit"),
        pytest.param("sha256:", id="nothing behind the colon"),
        pytest.param(f":{HEX}", id="nothing before the colon"),
        pytest.param("", id="empty"),
        pytest.param(f"sha256:{'a' * (1 << 20)}", id="1 MiB"),
    ],
)
def test_any_other_digest_is_refused(text: str) -> None:
    """A digest that is not whole, lower case and of a known algorithm is DigestInvalid, told briefly (R06, V07)."""
    with pytest.raises(DigestInvalid) as caught:
        Digest.parse(text)
    assert len(str(caught.value)) < 400


@given(ANY)
def test_an_accepted_name_never_leaves_its_grammar(text: str) -> None:
    """Whatever comes in, the answer is the same text with safe characters only, or one of the tree's errors."""
    for parse, characters in ((oci.repository, r"[a-z0-9._/-]{1,255}"), (oci.tag, r"[A-Za-z0-9_.-]{1,128}")):
        try:
            taken = parse(text)
        except ClientFault:
            continue
        assert taken == text
        assert re.fullmatch(characters, taken, re.ASCII)
        assert ".." not in taken.split("/")
        assert not taken.startswith(("/", ".", "-"))


@given(ANY | st.builds("{}:{}".format, st.sampled_from(["sha256", "sha512", "md5", ""]), st.text(max_size=140)))
def test_parsing_a_digest_is_idempotent_and_safe(text: str) -> None:
    """An accepted digest is its own text, of file-name characters only; anything else is DigestInvalid."""
    try:
        digest = Digest.parse(text)
    except DigestInvalid:
        return
    assert str(digest) == text
    assert SAFE.fullmatch(text)


@given(st.binary(min_size=32, max_size=32))
def test_every_sha256_is_accepted(raw: bytes) -> None:
    """No true digest is refused."""
    assert Digest.parse(f"sha256:{raw.hex()}").encoded == raw.hex()


def test_a_reference_tells_tag_and_digest_apart() -> None:
    """A target with a colon is a digest, any other a tag; the text of a reference shows which."""
    by_tag = Reference("library/nginx", oci.tag_or_digest("latest"))
    by_digest = Reference("library/nginx", oci.tag_or_digest(str(DIGEST)))
    assert (by_tag.tag, by_tag.digest, str(by_tag)) == ("latest", None, "library/nginx:latest")
    assert (by_digest.tag, by_digest.digest, str(by_digest)) == (None, DIGEST, f"library/nginx@{DIGEST}")
    with pytest.raises(DigestInvalid):
        oci.tag_or_digest("latest:1")


def test_a_span_knows_its_length() -> None:
    """A span holds its start and not its stop."""
    assert Span(3, 10).length == 7


@pytest.mark.parametrize(
    ("header", "bare"),
    [
        (None, None),
        ("", None),
        (" ; charset=utf-8", None),
        (oci.OCI_INDEX, oci.OCI_INDEX),
        (f"{oci.OCI_INDEX}; charset=utf-8", oci.OCI_INDEX),
        (oci.OCI_INDEX.upper() + " ;x", oci.OCI_INDEX),
    ],
)
def test_a_media_type_loses_its_parameters(header: str | None, bare: str | None) -> None:
    """Parameters and case of a Content-Type say nothing about a manifest (M05)."""
    assert oci.bare_media_type(header) == bare


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
