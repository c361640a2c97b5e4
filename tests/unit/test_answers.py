"""What an answer says, read strictly."""

import gzip
import zlib

import pytest
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import (
    DialRefused,
    UpstreamDenied,
    UpstreamFault,
    UpstreamLied,
    UpstreamNotFound,
    UpstreamThrottled,
    UpstreamUnavailable,
)
from proxy.upstream import answers

U = "registry.test"
NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


def headers(*lines: tuple[str, str]) -> CIMultiDict[str]:
    return CIMultiDict(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("-5", None),
        ("1.5", 1.5),
        ("99999999999", 3600.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:50", 30.0),
        ("Mon, 01 Jan 2001 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600.0),
        ("soon", None),
        ("", None),
        ("Tue, 99 Nov 2023 99:99:99 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_within_an_hour(text: str, expected: float | None) -> None:
    """Absurd values are bounded, negative and unreadable ones left out."""
    assert answers.retry_after(headers(("Retry-After", text)), NOW) == expected


@pytest.mark.parametrize("now", [0.0, NOW - 3600, NOW + 3600], ids=["1970", "an hour behind", "an hour ahead"])
def test_a_date_to_retry_after_is_held_against_the_answers_own_date(now: float) -> None:
    """Our clock may be wrong by an hour or by decades: an upstream that says 30 seconds means 30 seconds."""
    told = headers(("Date", "Tue, 14 Nov 2023 22:13:20 GMT"), ("Retry-After", "Tue, 14 Nov 2023 22:13:50 GMT"))
    assert answers.retry_after(told, now) == 30.0
    assert answers.retry_after(headers(("Date", "now"), ("Retry-After", "9")), now) == 9.0


HUB_PULL_LIMIT = (
    b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase the'
    b' limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit"}]}'
)


@pytest.mark.parametrize(
    ("body", "remaining", "is_pull_limit"),
    [
        pytest.param(HUB_PULL_LIMIT, None, True, id="Docker Hub's pull limit"),
        pytest.param(b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', "0;w=21600", True, id="no pulls are left"),
        pytest.param(b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', "7;w=21600", False, id="ECR's request rate"),
        pytest.param(b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', None, False, id="GHCR"),
        pytest.param(b"Too Many Requests (HAP429)", None, False, id="Docker Hub's abuse limit"),
        pytest.param(b"pull rate limit", "0;w=21600", False, id="no OCI error"),
        pytest.param(b"", None, False, id="no body, as to a HEAD"),
    ],
)
def test_the_two_kinds_of_429_are_told_apart(body: bytes, remaining: str | None, is_pull_limit: bool) -> None:
    """The pull limit lasts for hours and holds for GET of manifests; the other one for a minute, for all (U21)."""
    lines = [] if remaining is None else [("RateLimit-Remaining", remaining)]
    error = answers.fault(U, 429, headers(*lines), body, credentials=None, now=NOW)
    assert isinstance(error, UpstreamThrottled)
    assert error.is_pull_limit is is_pull_limit


@pytest.mark.parametrize(
    ("status", "body", "credentials", "kind"),
    [
        (404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}', None, UpstreamNotFound),
        (404, b'{"errors":[{"code":"404","message":"Not Found"}]}', None, UpstreamNotFound),
        (404, b"Not found", None, UpstreamNotFound),
        (404, b'{"errors":[{"code":"NOT_FOUND"}]}', None, UpstreamNotFound),
        (400, b'{"errors":[{"code":"NAME_INVALID"}]}', None, UpstreamNotFound),
        (410, b"", None, UpstreamNotFound),
        (401, b'{"errors":[{"code":"UNAUTHORIZED"}]}', None, UpstreamDenied),
        (403, b'{"errors":[{"code":"DENIED"}]}', "hub", UpstreamDenied),
        (429, b"Too Many Requests", None, UpstreamThrottled),
        (429, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', None, UpstreamThrottled),
        (403, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}', None, UpstreamThrottled),
        (500, b"", None, UpstreamUnavailable),
        (503, b"<html>", None, UpstreamUnavailable),
        (400, b"[1]", None, UpstreamLied),
        (304, b"", None, UpstreamLied),
        (204, b"", None, UpstreamLied),
    ],
)
def test_a_status_becomes_our_error(status: int, body: bytes, credentials: str | None, kind: type) -> None:
    """The shapes that registries give "not found", "denied", "slow down" and "broken" (U21, U23)."""
    error = answers.fault(U, status, headers(("Retry-After", "7")), body, credentials=credentials, now=NOW)
    assert type(error) is kind
    if isinstance(error, UpstreamDenied):
        assert error.credentials == credentials
    if isinstance(error, UpstreamThrottled | UpstreamUnavailable):
        assert error.retry_after_s == 7.0


def test_headers_that_contradict_themselves_are_a_lie() -> None:
    """Twice the same is one; two that differ cannot both be true."""
    assert answers.content_length(U, headers(("Content-Length", "5"), ("Content-Length", "5"))) == 5
    for name in ("Content-Length", "Content-Type", "Docker-Content-Digest", "Content-Encoding"):
        with pytest.raises(UpstreamLied):
            answers.single(U, headers((name, "1"), (name, "2")), name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 5-9/10", (5, 9, 10)),
        ("bytes 5-9/*", (5, 9, None)),
        ("bytes */10", (None, None, 10)),
        ("BYTES 0-0/1", (0, 0, 1)),
    ],
)
def test_content_range(text: str, expected: tuple[int | None, int | None, int | None]) -> None:
    """First byte, last byte and size, as far as they are told."""
    assert answers.content_range(U, headers(("Content-Range", text))) == expected


@pytest.mark.parametrize(
    "text", ["", "bytes 9-5/10", "bytes 5-10/10", "items 0-1/2", "bytes 0-1", "bytes -1-2/3", "0-1/2"]
)
def test_a_content_range_that_cannot_be_is_a_lie(text: str) -> None:
    """Malformed, reversed or beyond the end."""
    with pytest.raises(UpstreamLied):
        answers.content_range(U, headers(("Content-Range", text)))


def test_media_types_fit_their_grammar_and_html_is_a_lie() -> None:
    """Parameters go, junk becomes None, a web page is no registry's answer."""
    assert answers.media_type(U, headers(("Content-Type", "Application/JSON; charset=utf-8"))) == "application/json"
    for junk in ("x", "a/b/c", "text/\x80", "a b/c", "x/" + "y" * 200):
        assert answers.media_type(U, headers(("Content-Type", junk))) is None
    assert answers.media_type(U, headers()) is None
    for page in ("text/html", "TEXT/HTML; charset=utf-8", "application/xhtml+xml"):
        with pytest.raises(UpstreamLied):
            answers.media_type(U, headers(("Content-Type", page)))


@pytest.mark.parametrize("text", ["", "sha256:zz", "x" * 100_000, "sha256:" + "A" * 64, "md5:00\x00"])
def test_an_unreadable_digest_is_no_digest(text: str) -> None:
    """The caller hashes the body then; nothing unchecked is passed on."""
    assert answers.digest(U, headers(("Docker-Content-Digest", text))) is None


ASKED = URL("https://registry.test/v2/a/b/tags/list?n=2")


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ('</v2/a/b/tags/list?last=x&n=2>; rel="next"', {"last": "x", "n": "2"}),
        ("<https://registry.test/v2/a/b/tags/list?last=x>; rel=next", {"last": "x"}),
        ("<https://REGISTRY.test:443/prefix/v2/a/b/tags/list?last=y>; rel=next", {"last": "y"}),
        ('<?last=z>; title="a, b"; rel="prev next"', {"last": "z"}),
        ('</v2/other>; rel="prev", </v2/a/b/tags/list?last=c%26d>; rel="next"', {"last": "c&d"}),
        ('</v2/a/b/tags/list?last=x>; rel="prev"', None),
        ("nonsense", None),
        ("", None),
    ],
)
def test_the_next_page_is_a_query(link: str, expected: dict[str, str] | None) -> None:
    """Of `Link` only the query of rel=next is taken, whatever stands around it."""
    assert answers.next_query(U, headers(("Link", link)), ASKED) == expected


@pytest.mark.parametrize(
    "link",
    ["<x>" + ";a= " * 64 + '"', "<" * 65_536, "<x>" + " " * 60_000 + '"', '<x>"' * 16_000, '<x>"<x>"' * 8000 + '"'],
)
def test_a_link_made_to_be_read_for_ever_is_read_at_once(link: str) -> None:
    """A header that could be taken apart in many ways is none with a next page; the loop that reads it goes on."""
    assert answers.next_query(U, headers(*[("Link", link)] * 64), ASKED) is None


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.test/v2/a/b/tags/list?last=x",
        "//evil.test/v2/a/b/tags/list?last=x",
        "https://registry.test.evil.test/v2/a/b/tags/list",
        "https://registry.test:444/v2/a/b/tags/list",
        "https://me@registry.test/v2/a/b/tags/list",
        "http://169.254.169.254/v2/a/b/tags/list",
        "https://registry.test\\@evil.test/v2/a/b/tags/list",
        "/v2/a/b/manifests/x",
        "file:///v2/a/b/tags/list",
    ],
)
def test_a_link_to_elsewhere_is_refused(target: str) -> None:
    """Another host, port, kind of list or scheme is an error, never a quiet end of the list."""
    with pytest.raises(DialRefused):
        answers.next_query(U, headers(("Link", f'<{target}>; rel="next"')), ASKED)


def test_gzip_is_inflated_under_the_cap() -> None:
    """A small gzip becomes its content; a bomb, a cut one, a tail or another encoding is a lie."""
    packed = headers(("Content-Encoding", "gzip"))
    assert answers.inflate(U, gzip.compress(b"{}"), packed, 2) == b"{}"
    assert answers.inflate(U, b"{}", headers(("Content-Encoding", "identity")), 2) == b"{}"
    bomb = gzip.compress(b"0" * 10_000_000)
    bad = [bomb, gzip.compress(b"{}")[:-4], gzip.compress(b"{}") + b"tail", b"junk", zlib.compress(b"{}")]
    for body in bad:
        with pytest.raises(UpstreamLied):
            answers.inflate(U, body, packed, 1000)
    with pytest.raises(UpstreamLied):
        answers.inflate(U, b"{}", headers(("Content-Encoding", "br")), 1000)


def test_plain_values() -> None:
    """A header is handed on only as short printable ASCII."""
    assert answers.plain(U, headers(("OCI-Filters-Applied", "artifactType")), "OCI-Filters-Applied") == "artifactType"
    assert answers.plain(U, headers(("OCI-Filters-Applied", "a\x80")), "OCI-Filters-Applied") is None


def test_every_error_names_its_upstream() -> None:
    """A fault's message tells which upstream, and holds no header or body."""
    error = answers.fault(U, 500, headers(), b"secret-body", credentials=None, now=NOW)
    assert isinstance(error, UpstreamFault)
    assert U in str(error)
    assert "secret-body" not in str(error)
