"""The error tree: every error has a status and a code of the spec, and none says more than it should."""

import inspect
import re

import pytest

from proxy import errors
from proxy.errors import ANSWERS, CisternError, answer

# distribution-spec 1.1 "Error Codes", and three of the reference registry (E01).
CODES = set(
    re.findall(
        "[A-Z_]+",
        "BLOB_UNKNOWN BLOB_UPLOAD_INVALID BLOB_UPLOAD_UNKNOWN DIGEST_INVALID MANIFEST_BLOB_UNKNOWN MANIFEST_INVALID "
        "MANIFEST_UNKNOWN NAME_INVALID NAME_UNKNOWN SIZE_INVALID UNAUTHORIZED DENIED UNSUPPORTED TOOMANYREQUESTS "
        "UNKNOWN UNAVAILABLE PAGINATION_NUMBER_INVALID",
    )
)
TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CisternError)]


def made(kind: type[CisternError]) -> CisternError:
    """An error of this kind, its arguments filled in."""
    facts = {
        "problems": ["x"],
        "why": "no_room",
        "size": 2048,
        "credentials": None,
        "upstream": "docker.io",
        "message": "m",
    }
    if kind.__init__ is Exception.__init__:
        return kind("m")
    wanted = inspect.signature(kind).parameters
    return kind(**{name: facts[name] for name in wanted if name in facts})


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_and_a_listed_code(kind: type[CisternError]) -> None:
    """Whatever is raised on purpose has an answer; none is a 401, which would mean "log in to Cistern" (E01)."""
    status, code = answer(made(kind))
    assert status in {400, 403, 404, 405, 416, 429, 500, 502, 503, 504}
    assert code in CODES
    assert re.fullmatch(r"[A-Z_]+", code)


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_has_a_bounded_reason(kind: type[CisternError]) -> None:
    """The reason of logs, metrics and Cache-Status is a word made of the class alone."""
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", made(kind).reason)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.NameInvalid("x"), (400, "NAME_INVALID")),
        (errors.TagInvalid("x"), (404, "MANIFEST_UNKNOWN")),
        (errors.DigestInvalid("x"), (400, "DIGEST_INVALID")),
        (errors.PathUnknown("x"), (404, "NAME_UNKNOWN")),
        (errors.MethodUnsupported("x"), (405, "UNSUPPORTED")),
        (errors.PaginationInvalid("x"), (400, "PAGINATION_NUMBER_INVALID")),
        (errors.RangeInvalid("x"), (400, "SIZE_INVALID")),
        (errors.RangeUnsatisfiable(2048), (416, "SIZE_INVALID")),
        (errors.ManifestUnknown("x"), (404, "MANIFEST_UNKNOWN")),
        (errors.BlobUnknown("x"), (404, "BLOB_UNKNOWN")),
        (errors.Denied("x"), (403, "DENIED")),
        (errors.Overloaded("x"), (503, "UNAVAILABLE")),
        (errors.UpstreamUnavailable("u", "x"), (503, "UNAVAILABLE")),
        (errors.UpstreamTimeout("u", "x"), (504, "UNAVAILABLE")),
        (errors.UpstreamThrottled("u", "x"), (429, "TOOMANYREQUESTS")),
        (errors.WrongDigest("u", "x"), (502, "UNKNOWN")),
        (errors.DialRefused("u", "x"), (502, "UNKNOWN")),
        (errors.CredentialUnavailable("u", "x"), (503, "UNAVAILABLE")),
        (errors.CredentialRefused("u", "x", credentials="hub"), (403, "DENIED")),
        (CisternError("x"), (500, "UNKNOWN")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, CisternError) else "",
)
def test_the_table_is_the_contracts(error: CisternError, expected: tuple[int, str]) -> None:
    """An outage is 503, a timeout 504, a lie 502, a denial 403; a kind without a line has its parent's answer."""
    assert answer(error) == expected


def test_every_line_of_the_table_is_reachable() -> None:
    """No line names a kind that is not of the tree."""
    assert set(ANSWERS) <= set(TREE)


def test_errors_carry_their_facts() -> None:
    """An error's facts are fields, and its message names what it speaks of."""
    throttled = errors.UpstreamThrottled("docker.io", "slow down", 7.5)
    assert (throttled.upstream, throttled.retry_after_s, throttled.reason) == ("docker.io", 7.5, "upstream_throttled")
    assert str(throttled) == "upstream docker.io: slow down"
    assert errors.Overloaded("full").retry_after_s == 1.0
    assert errors.NameInvalid("x").retry_after_s is None
    assert errors.ConfigInvalid(["a:1: x: y", "b"]).problems == ["a:1: x: y", "b"]
    assert errors.UpstreamDenied("u", "no", credentials=None).anonymous
    assert not errors.UpstreamDenied("u", "no", credentials="hub").anonymous
    assert "2048" in str(errors.RangeUnsatisfiable(2048))
