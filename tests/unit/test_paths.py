"""The URL space: every spelling leads to one name or to a 4xx, never to another name."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ClientFault, DigestInvalid, NameInvalid, PathUnknown, TagInvalid
from proxy.oci import Digest
from proxy.paths import PATH_MAX, Call, Kind, parse

HEX = "a" * 64
DIGEST = Digest("sha256", HEX)


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("/v2/", Call(Kind.PING)),
        ("/v2", Call(Kind.PING)),
        ("/docker.io/v2/", Call(Kind.PING, prefix="docker.io")),
        ("/v2/_catalog", Call(Kind.CATALOG)),
        ("/v2/nginx/manifests/latest", Call(Kind.MANIFEST, "nginx", "latest")),
        ("/v2/a/b/manifests/sha256:" + HEX, Call(Kind.MANIFEST, "a/b", DIGEST)),
        ("/v2/a/b/manifests/sha256%3A" + HEX, Call(Kind.MANIFEST, "a/b", DIGEST)),
        ("/v2/a/b/blobs/sha256%3a" + HEX, Call(Kind.BLOB, "a/b", DIGEST)),
        ("/v2/a/tags/list", Call(Kind.TAGS, "a")),
        ("/v2/a/referrers/sha256:" + HEX, Call(Kind.REFERRERS, "a", DIGEST)),
        ("/v2/a/manifests/b/manifests/latest", Call(Kind.MANIFEST, "a/manifests/b", "latest")),
        ("/v2/blobs/tags/list/manifests/list", Call(Kind.MANIFEST, "blobs/tags/list", "list")),
        ("/v2/manifests/tags/list", Call(Kind.TAGS, "manifests")),
        ("/v2/v2/manifests/v2", Call(Kind.MANIFEST, "v2", "v2")),
        ("/v2/docker.io/library/x/manifests/1", Call(Kind.MANIFEST, "docker.io/library/x", "1")),
        ("/docker.io/v2/library/x/manifests/1", Call(Kind.MANIFEST, "library/x", "1", "docker.io")),
        ("/h.example:5000/v2/x/manifests/1", Call(Kind.MANIFEST, "x", "1", "h.example:5000")),
        ("/h.example%3A5000/v2/x/manifests/1", Call(Kind.MANIFEST, "x", "1", "h.example:5000")),
        ("/v2/%6eginx/manifests/latest", Call(Kind.MANIFEST, "nginx", "latest")),
    ],
    ids=lambda value: value[:45] if isinstance(value, str) else "",
)
def test_a_path_is_read_from_the_right(path: str, call: Call) -> None:
    """Names may hold any word of the URL space; what is encoded once is decoded once (R01 to R08, R17)."""
    assert parse(path) == call


@pytest.mark.parametrize(
    ("path", "error"),
    [
        pytest.param("", PathUnknown, id="nothing"),
        pytest.param("/", PathUnknown, id="root"),
        pytest.param("*", PathUnknown, id="asterisk form"),
        pytest.param("v2/a/manifests/b", PathUnknown, id="no leading slash"),
        pytest.param("evil/v2/a/manifests/b", PathUnknown, id="a host without a scheme"),
        pytest.param("/v1/_ping", PathUnknown, id="version 1"),
        pytest.param("/V2/a/manifests/b", PathUnknown, id="upper-case V2"),
        pytest.param("/a/b/v2/x/manifests/y", PathUnknown, id="prefix of two components"),
        pytest.param("//v2/a/manifests/b", NameInvalid, id="two slashes first"),
        pytest.param("/v2//a/manifests/b", NameInvalid, id="two slashes"),
        pytest.param("/v2/a//manifests/b", NameInvalid, id="two slashes before the verb"),
        pytest.param("/v2//", PathUnknown, id="two slashes last"),
        pytest.param("/./v2/a/manifests/b", NameInvalid, id="dot as prefix"),
        pytest.param("/../v2/a/manifests/b", NameInvalid, id="dots as prefix"),
        pytest.param("/%00/v2/a/manifests/b", NameInvalid, id="NUL as prefix"),
        pytest.param("/%0a/v2/", NameInvalid, id="newline as prefix of a ping"),
        pytest.param("/v2/./a/manifests/b", NameInvalid, id="dot"),
        pytest.param("/v2/a/../b/manifests/c", NameInvalid, id="dots"),
        pytest.param("/v2/%2e%2e/%2e%2e/x/manifests/y", NameInvalid, id="encoded dots"),
        pytest.param("/v2/a/manifests/..", TagInvalid, id="dots as tag"),
        pytest.param("/v2/a/manifests/b/", PathUnknown, id="trailing slash"),
        pytest.param("/v2/a/manifests/", TagInvalid, id="no reference"),
        pytest.param("/v2/a/tags/list/", PathUnknown, id="trailing slash after list"),
        pytest.param("/v2/_catalog/", PathUnknown, id="trailing slash after the catalogue"),
        pytest.param("/v2/a%2Fb/manifests/c", NameInvalid, id="encoded slash"),
        pytest.param("/v2/a%2fb/manifests/c", NameInvalid, id="encoded slash, lower case"),
        pytest.param("/v2/%2F%2F..%2F/manifests/c", NameInvalid, id="Nexus traversal"),
        pytest.param("/v2/a%252fb/manifests/c", NameInvalid, id="slash encoded twice"),
        pytest.param("/v2/a/manifests/sha256%253A" + HEX, TagInvalid, id="colon encoded twice"),
        pytest.param("/v2/a%5cb/manifests/c", NameInvalid, id="backslash"),
        pytest.param("/v2/a%00/manifests/b", NameInvalid, id="NUL"),
        pytest.param("/v2/a/manifests/latest%0a", TagInvalid, id="newline after the tag"),
        pytest.param("/v2/a%ff/manifests/b", NameInvalid, id="not UTF-8"),
        pytest.param("/v2/a\udcff/manifests/b", NameInvalid, id="raw byte that is not UTF-8"),
        pytest.param("/v2/a%zz/manifests/b", NameInvalid, id="broken escape"),
        pytest.param("/v2/A/manifests/b", NameInvalid, id="upper case"),
        pytest.param("/v2/" + "a/" * 5000 + "manifests/b", NameInvalid, id="10 kB"),
        pytest.param("/v2/" + "a" * 256 + "/manifests/b", NameInvalid, id="256 characters"),
        pytest.param("/v2/a/manifests/" + "t" * 129, TagInvalid, id="tag of 129 characters"),
        pytest.param("/v2/a/manifests/sha256:baddigeststring", DigestInvalid, id="bad digest"),
        pytest.param("/v2/a/blobs/latest", DigestInvalid, id="blob by tag"),
        pytest.param("/v2/a/blobs/../../etc/passwd", PathUnknown, id="traversal behind blobs"),
        pytest.param("/v2/a/referrers/x", DigestInvalid, id="referrers of no digest"),
        pytest.param("/v2/a/blobs/uploads/", PathUnknown, id="upload"),
        pytest.param("/v2/manifests/latest", PathUnknown, id="no name"),
        pytest.param("/v2/a", PathUnknown, id="no verb"),
    ],
)
def test_any_other_path_is_the_clients_fault(path: str, error: type[ClientFault]) -> None:
    """Odd paths end in a 4xx of the tree, and never as a different name (R03, R17, V09, V40)."""
    with pytest.raises(error) as caught:
        parse(path)
    assert len(str(caught.value)) < 400


def test_a_path_has_a_longest_length() -> None:
    """A path of exactly the longest length is still judged by its content."""
    longest = "/v2/a/manifests/".ljust(PATH_MAX, "x")
    with pytest.raises(TagInvalid):
        parse(longest)
    with pytest.raises(NameInvalid, match="2048"):
        parse(longest + "x")


def test_only_content_has_a_digest() -> None:
    """Asking a call without a digest for one is a fault of the code, not a silent None."""
    assert parse("/v2/a/blobs/sha256:" + HEX).digest == DIGEST
    with pytest.raises(TypeError):
        _ = parse("/v2/a/tags/list").digest


def test_labels_are_those_of_the_contract() -> None:
    """The kinds of metrics and logs are five words."""
    assert {kind.label for kind in Kind} == {"manifest", "blob", "tags", "referrers", "other"}


PIECES = st.sampled_from(
    [
        *("/", "v2", "a", "b.c", "manifests", "blobs", "tags", "list", "referrers", "latest", "sha256:" + HEX),
        *("%2e", "..", ".", "%2F", "%25", "%", "%00", "%ff", "A", "\udc80", "é", "_catalog", ":", "?", "#"),
    ]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=14).map("".join) | st.text(max_size=60))
def test_parsing_a_path_never_leaves_the_tree(path: str) -> None:
    """Any text is a call with a name of the grammar, or a ClientFault; and the call's own path parses to itself."""
    try:
        call = parse(path)
    except ClientFault:
        return
    assert re.fullmatch(r"[a-z0-9._/-]{0,255}", call.name, re.ASCII)
    assert call.prefix is None or re.fullmatch(r"[A-Za-z0-9._:\[\]-]+", call.prefix, re.ASCII)
    last = {Kind.PING: "", Kind.CATALOG: "_catalog", Kind.TAGS: f"{call.name}/tags/list"}
    verbs = {Kind.MANIFEST: "manifests", Kind.BLOB: "blobs", Kind.REFERRERS: "referrers"}
    rest = last[call.kind] if call.kind in last else f"{call.name}/{verbs[call.kind]}/{call.target}"
    assert parse(("" if call.prefix is None else f"/{call.prefix}") + f"/v2/{rest}") == call
