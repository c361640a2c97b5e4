"""How an answer is told: Cache-Status, Warning and Age, word for word."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.outcome import COLLAPSED, HEAD_MISS, HIT, MISS, Outcome, Result, cache_status, stale_headers, unkept

STALE = Outcome(
    result=Result.STALE, fresh_for_s=-30.4, age_s=90.4, stale_because="upstream unreachable since 2026-11-24T00:00:00Z"
)


@pytest.mark.parametrize(
    ("outcome", "entry"),
    [
        pytest.param(HIT, "cache-1; hit", id="hit"),
        pytest.param(MISS, "cache-1; fwd=miss; stored", id="miss"),
        pytest.param(HEAD_MISS, "cache-1; fwd=miss", id="only its head"),
        pytest.param(COLLAPSED, "cache-1; fwd=miss; collapsed; stored", id="joined"),
        pytest.param(STALE, "cache-1; hit; ttl=-30", id="stale"),
        pytest.param(Outcome(result=Result.HIT, fresh_for_s=12.0), "cache-1; hit", id="hit with time left"),
        pytest.param(Outcome(result=Result.HIT, fresh_for_s=-7.0), "cache-1; hit; ttl=-7", id="checked behind"),
        pytest.param(Outcome(result=Result.HIT, checked_status=304), "cache-1; fwd=stale; fwd-status=304", id="304"),
        pytest.param(Outcome(result=Result.MISS, checked_status=200), "cache-1; fwd=stale; fwd-status=200", id="moved"),
        pytest.param(unkept("disk"), "cache-1; fwd=miss; detail=disk", id="not kept"),
        pytest.param(unkept("wrong_digest"), "cache-1; fwd=miss; detail=wrong_digest", id="not kept, two words"),
        pytest.param(Outcome(result=Result.STALE), "cache-1; hit; ttl=0", id="stale without facts"),
    ],
)
def test_cache_status_is_the_contracts(outcome: Outcome, entry: str) -> None:
    """Each outcome has the one entry that contract.md section 4 prints."""
    assert cache_status("cache-1", outcome) == entry


@pytest.mark.parametrize(
    ("member", "shown"),
    [
        ("cistern", "cistern"),
        ("node.example:5090", "node.example:5090"),
        ("3f2a9c", '"3f2a9c"'),
        ("a b", '"a b"'),
        ('a"; hit\r\nX: y', '"a ; hit  X: y"'),
        ("", '""'),
    ],
)
def test_a_member_is_a_token_or_quoted(member: str, shown: str) -> None:
    """A host name that begins with a digit, as containers' do, is no token of RFC 9651: it stands in quotes."""
    assert cache_status(member, HIT) == f"{shown}; hit"


def test_a_reason_cannot_forge_another_parameter() -> None:
    """A reason that is no word stands in quotes, in one line."""
    assert cache_status("c", unkept("x; hit\r\nA: b")) == 'c; fwd=miss; detail="x; hit  A: b"'


def test_a_stale_answer_says_so() -> None:
    """A stale answer carries its age, and the warning in the form that clients parse (E10)."""
    assert stale_headers(STALE) == {
        "Warning": '299 - "stale: upstream unreachable since 2026-11-24T00:00:00Z"',
        "Age": "90",
    }


@pytest.mark.parametrize("outcome", [HIT, MISS, COLLAPSED, unkept("disk"), Outcome(result=Result.HIT, age_s=5.0)])
def test_no_other_answer_warns(outcome: Outcome) -> None:
    """Neither Warning nor Age stands on what is not stale."""
    assert stale_headers(outcome) == {}


@given(st.text(max_size=50) | st.text(st.sampled_from('"\\\r\n\t\0é漢\udc80\x7f')) | st.just("漢" * 9000))
def test_a_warning_is_always_one_quoted_string(because: str) -> None:
    """Whatever an upstream's error holds, the header is printable ASCII, unescaped, and at most 4096 bytes (E10)."""
    warning = stale_headers(Outcome(result=Result.STALE, age_s=1.0, stale_because=because))["Warning"]
    assert re.fullmatch(r'299 - "stale: [ !#-\[\]-~]*"', warning)
    assert len(warning.encode()) <= 4096
