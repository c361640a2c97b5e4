"""References as people type them."""

import pytest

from proxy.errors import CisternError, DigestInvalid, NameInvalid, TagInvalid
from proxy.oci import Digest
from proxy.reference import ClientReference, parse

DIGEST = Digest.of(b"nginx")


@pytest.mark.parametrize(
    ("text", "name", "namespace", "target"),
    [
        ("nginx", "nginx", None, "latest"),
        ("nginx:1.27", "nginx", None, "1.27"),
        ("library/nginx", "library/nginx", None, "latest"),
        ("docker.io/library/nginx:1.27", "docker.io/library/nginx", None, "1.27"),
        ("dockerhub/nginx", "dockerhub/nginx", None, "latest"),
        ("localhost/x:1", "localhost/x", None, "1"),
        (f"nginx@{DIGEST}", "nginx", None, DIGEST),
        (f"nginx:1.27@{DIGEST}", "nginx", None, DIGEST),
        (f"host:5000/x@{DIGEST}", "x", "host:5000", DIGEST),
        ("host:5000/team/app:1", "team/app", "host:5000", "1"),
        ("host:5000/team/app", "team/app", "host:5000", "latest"),
        ("[::1]:5000/app:1", "app", "[::1]:5000", "1"),
        ("Docker.IO/library/nginx", "library/nginx", "docker.io", "latest"),
        ("docker://docker.io/library/nginx:1", "docker.io/library/nginx", None, "1"),
        ("  nginx:1  ", "nginx", None, "1"),
        ("a/b/c/d:Tag_1.x-y", "a/b/c/d", None, "Tag_1.x-y"),
    ],
)
def test_a_reference_is_read(text: str, name: str, namespace: str | None, target: str | Digest) -> None:
    """Name, registry and target come out as a client would send them; a digest wins over a tag."""
    assert parse(text) == ClientReference(name, namespace, target)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", NameInvalid),
        ("   ", NameInvalid),
        (":1", NameInvalid),
        ("@", DigestInvalid),
        ("nginx:", TagInvalid),
        ("nginx:-1", TagInvalid),
        ("nginx:a b", TagInvalid),
        (f"nginx:{'t' * 129}", TagInvalid),
        ("nginx@", DigestInvalid),
        ("nginx@sha256:short", DigestInvalid),
        ("nginx@md5:d41d8cd98f00b204e9800998ecf8427e", DigestInvalid),
        (f"nginx:-@{DIGEST}", TagInvalid),
        (f"nginx@{DIGEST}@{DIGEST}", DigestInvalid),
        ("Nginx", NameInvalid),
        ("docker.io/", NameInvalid),
        ("docker.io//nginx", NameInvalid),
        ("docker.io/../nginx", NameInvalid),
        ("host:5000/", NameInvalid),
        ("https://docker.io/nginx", NameInvalid),
        ("nginx\n", None),
        ("ngi\nnx", NameInvalid),
        ("x" * 5000, NameInvalid),
        ("nginx:1:2", NameInvalid),
    ],
)
def test_what_is_no_reference_is_refused(text: str, error: type[CisternError] | None) -> None:
    """The error names the part that is wrong; white space around a reference is none of it."""
    if error is None:
        assert parse(text).name == text.strip()
    else:
        with pytest.raises(error):
            parse(text)


def test_a_repository_alone_names_no_tag_where_none_is_wanted() -> None:
    """Listing asks for a whole repository: no tag is made up for it."""
    assert parse("docker.io/library/nginx", default_tag=None).target is None
    assert parse("nginx:1", default_tag=None).target == "1"


@pytest.mark.parametrize("text", ["docker.io/library/nginx:1.27", f"host:5000/x@{DIGEST}", "a/b:c"])
def test_a_reference_is_written_as_it_was_read(text: str) -> None:
    """Its text can be read again, and means the same."""
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


def test_a_url_is_told_how_to_write_it() -> None:
    """Somebody who pastes an address is told what to leave off."""
    with pytest.raises(NameInvalid, match="without https://"):
        parse("https://docker.io/library/nginx")
