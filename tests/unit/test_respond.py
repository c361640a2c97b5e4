"""Answers without a stream: headers word for word, errors as the spec has them, conditions."""

import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import errors
from proxy.errors import CisternError
from proxy.exchange import Exchange
from proxy.freshness import TagPolicy
from proxy.oci import OCI_INDEX, Digest
from proxy.outcome import HIT, Outcome, Result
from proxy.rules import Route, Source
from proxy.server import respond

DIGEST = Digest.of(b"x")
OTHER = Digest.of(b"y")


def route(*, is_mirror: bool = True, namespace: str | None = None) -> Route:
    return Route(
        rule="hub",
        source=Source("docker.io", "library/nginx"),
        client_repository="nginx",
        tags=TagPolicy(),
        hydrate=True,
        public=True,
        is_mirror=is_mirror,
        namespace=namespace,
    )


def asked(method: str = "GET", *, kind: str = "manifest", to: Route | None = None) -> Exchange:
    return Exchange(id="1", client="10.0.0.1", method=method, kind=kind, route=to)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param(None, False, id="none"),
        pytest.param(f'"{DIGEST}"', True, id="quoted"),
        pytest.param(f"{DIGEST}", True, id="unquoted"),
        pytest.param(f" {DIGEST} ", True, id="unquoted with spaces"),
        pytest.param(f'W/"{DIGEST}"', True, id="weak"),
        pytest.param(f"W/{DIGEST}", True, id="weak, unquoted"),
        pytest.param(f'"{OTHER}", "{DIGEST}"', True, id="list"),
        pytest.param(f'"{OTHER}",W/"{DIGEST}"', True, id="list with a weak one"),
        pytest.param(f"{OTHER}, {DIGEST}", True, id="unquoted list"),
        pytest.param("*", True, id="star"),
        pytest.param("", False, id="empty"),
        pytest.param(f'"{OTHER}"', False, id="another"),
        pytest.param(f'"{DIGEST}x"', False, id="longer"),
        pytest.param(f'"{str(DIGEST)[:-1]}"', False, id="shorter"),
        pytest.param(f'"{DIGEST.encoded}"', False, id="without algorithm"),
        pytest.param(f'"{str(DIGEST).upper()}"', False, id="upper case"),
        pytest.param('"' * 60_000, False, id="60,000 quotes"),
        pytest.param('"a' * 30_000, False, id="broken quotes"),
        pytest.param(" " * 60_000 + "x", False, id="60,000 spaces"),
        pytest.param(" ," * 30_000, False, id="empty list"),
    ],
)
@pytest.mark.timeout(5)
def test_if_none_match_in_every_spelling(header: str | None, expected: bool) -> None:
    """Quoted, unquoted, weak, in a list or `*`: what names the digest is not modified; odd ones cost no time (M15)."""
    assert respond.not_modified(header, DIGEST) is expected


@given(st.text(max_size=60) | st.lists(st.sampled_from(['"', ",", "W/", " ", "*", str(OTHER)])).map("".join))
def test_if_none_match_never_fails(header: str) -> None:
    """Any header is a yes or a no, and a yes only if it holds a `*`."""
    assert respond.not_modified(header, DIGEST) is False or "*" in header


def test_content_headers_are_bare() -> None:
    """A Content-Type has no parameters, and the ETag is the quoted digest (M01, M05)."""
    assert respond.content_headers(DIGEST, OCI_INDEX) == {
        "Content-Type": OCI_INDEX,
        "Docker-Content-Digest": str(DIGEST),
        "ETag": f'"{DIGEST}"',
    }


def test_common_headers() -> None:
    """Every answer names the API; Cache-Status, OCI-Namespace and staleness stand where they apply (R01, R12)."""
    exchange = asked()
    assert respond.common_headers("c", exchange) == {
        "Docker-Distribution-Api-Version": "registry/2.0",
        "Server": "Cistern",
    }
    exchange.outcome, exchange.route = HIT, route()
    assert respond.common_headers("c", exchange) == respond.COMMON | {"Cache-Status": "c; hit"}
    exchange.outcome = Outcome(result=Result.STALE, age_s=9, fresh_for_s=-9, stale_because="away")
    exchange.route = route(namespace="docker.io")
    assert respond.common_headers("c", exchange) == respond.COMMON | {
        "Cache-Status": "c; hit; ttl=-9",
        "Warning": '299 - "stale: away"',
        "Age": "9",
        "OCI-Namespace": "docker.io",
    }


def test_a_small_body_and_its_head() -> None:
    """A HEAD has the headers of its GET, the length included, and counts no body bytes (M02, X08)."""
    for method, sent in (("GET", 2), ("HEAD", 0)):
        exchange = asked(method)
        answer = respond.small(exchange, b"{}", {"Content-Type": respond.JSON})
        assert (answer.status, answer.headers["Content-Length"], exchange.sent) == (200, "2", sent)
        assert answer.headers["Content-Type"] == "application/json"
        assert exchange.status == 200
        assert exchange.first_byte_s is not None


def test_not_modified_has_no_length() -> None:
    """A 304 keeps ETag and digest and tells no length, for there is no body (M15)."""
    exchange = asked()
    answer = respond.small(exchange, b"", respond.content_headers(DIGEST, OCI_INDEX), 304)
    assert answer.status == exchange.status == 304
    assert answer.headers["ETag"] == f'"{DIGEST}"'
    assert answer.headers["Docker-Content-Digest"] == str(DIGEST)
    assert "Content-Length" not in answer.headers
    assert answer.body is None


def test_a_described_answer_tells_the_true_length() -> None:
    """A HEAD of content that nobody read has its size, and no body."""
    answer = respond.described(asked("HEAD"), 7, {"Content-Type": OCI_INDEX})
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "7", None)


@pytest.mark.parametrize(
    ("error", "to", "status", "code", "headers"),
    [
        pytest.param(errors.NameInvalid("x"), None, 400, "NAME_INVALID", {}, id="name"),
        pytest.param(errors.MethodUnsupported("x"), None, 405, "UNSUPPORTED", {"Allow": "GET, HEAD"}, id="method"),
        pytest.param(
            errors.RangeUnsatisfiable(2048), None, 416, "SIZE_INVALID", {"Content-Range": "bytes */2048"}, id="range"
        ),
        pytest.param(errors.Overloaded("full", 0.2), None, 503, "UNAVAILABLE", {"Retry-After": "1"}, id="overload"),
        pytest.param(errors.UpstreamUnavailable("u", "x"), None, 503, "UNAVAILABLE", {"Retry-After": "5"}, id="outage"),
        pytest.param(
            errors.UpstreamUnavailable("u", "x", 29.1), None, 503, "UNAVAILABLE", {"Retry-After": "30"}, id="breaker"
        ),
        pytest.param(errors.UpstreamTimeout("u", "x"), None, 504, "UNAVAILABLE", {}, id="timeout"),
        pytest.param(errors.UpstreamLied("u", "x"), None, 502, "UNKNOWN", {}, id="lie"),
        pytest.param(
            errors.UpstreamThrottled("u", "x", 60),
            route(),
            503,
            "TOOMANYREQUESTS",
            {"Retry-After": "60"},
            id="throttled, mirror",
        ),
        pytest.param(
            errors.UpstreamThrottled("u", "x", 60),
            route(is_mirror=False),
            429,
            "TOOMANYREQUESTS",
            {"Retry-After": "60"},
            id="throttled, own path",
        ),
        pytest.param(
            errors.UpstreamThrottled("u", "x"),
            route(is_mirror=False),
            429,
            "TOOMANYREQUESTS",
            {"Retry-After": "5"},
            id="throttled, nobody knows how long",
        ),
        pytest.param(
            errors.UpstreamDenied("u", "x", credentials="hub"), route(), 403, "DENIED", {}, id="denied with credentials"
        ),
        pytest.param(
            errors.UpstreamDenied("u", "x", credentials=None), route(), 404, "MANIFEST_UNKNOWN", {}, id="anonymous"
        ),
        pytest.param(CisternError("x"), None, 500, "UNKNOWN", {}, id="internal"),
    ],
)
def test_an_error_is_told_as_the_spec_has_it(
    error: CisternError, to: Route | None, status: int, code: str, headers: dict[str, str]
) -> None:
    """Status, code, JSON body and the headers that its status asks for; never a 401 (E01, E03, contract section 4)."""
    exchange = asked(to=to)
    answer = respond.failure(exchange, error)
    assert isinstance(answer.body, bytes)
    assert orjson.loads(answer.body) == {"errors": [{"code": code, "message": str(error), "detail": None}]}
    fixed = {
        "Content-Type": "application/json",
        "Content-Length": str(len(answer.body)),
        "Docker-Distribution-Api-Version": "registry/2.0",
        "Server": "Cistern",
    }
    assert (answer.status, dict(answer.headers)) == (status, fixed | headers)
    assert exchange.error == f"{error.reason}: {error}"


@pytest.mark.parametrize(
    ("kind", "code"),
    [("manifest", "MANIFEST_UNKNOWN"), ("blob", "BLOB_UNKNOWN"), ("tags", "NAME_UNKNOWN"), ("other", "NAME_UNKNOWN")],
)
def test_an_anonymous_denial_looks_like_nothing_there(kind: str, code: str) -> None:
    """To an anonymous asker a denial is the 404 of what was asked for (contract section 4)."""
    denied = errors.UpstreamDenied("u", "no", credentials=None)
    assert respond.status_of(asked(kind=kind), denied) == (404, code)


@given(st.text(max_size=80) | st.text(st.characters(categories=["Cs", "Cc"]), max_size=9) | st.just("x" * 100_000))
def test_a_message_is_one_bounded_line(message: str) -> None:
    """Whatever an error quotes, its body is JSON, printable and short, and no header holds any of it (T06)."""
    answer = respond.failure(asked(), errors.NameInvalid(message))
    assert isinstance(answer.body, bytes)
    shown = orjson.loads(answer.body)["errors"][0]["message"]
    assert shown.isprintable()
    assert len(shown) <= respond.MESSAGE_MAX
    assert all(re.fullmatch(r"[ -~]*", value) for value in answer.headers.values())


def test_a_head_has_the_errors_headers_only() -> None:
    """The answer to a failed HEAD counts no body bytes (E01)."""
    exchange = asked("HEAD")
    answer = respond.failure(exchange, errors.ManifestUnknown("x"))
    assert (answer.status, exchange.sent) == (404, 0)
    assert int(answer.headers["Content-Length"]) > 0
