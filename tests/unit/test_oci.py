"""The nouns of the specs: which names, tags, digests and media types are accepted, and which are refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import oci
from proxy.errors import ClientFault, DigestInvalid, NameInvalid, TagInvalid
from proxy.oci import HEX_LENGTH, Digest, Reference, Span

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
