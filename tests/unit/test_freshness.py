"""What a tag record says at a given time, at each edge."""

import math

import pytest

from proxy.freshness import FOREVER_S, Freshness, TagPolicy, TagRecord, judge
from proxy.oci import OCI_MANIFEST, Descriptor, Digest
from tests.support.clock import Clock

RECORD = TagRecord(
    descriptor=Descriptor(OCI_MANIFEST, Digest.of(b"x"), 1), first_seen=500.0, last_checked=1000.0, origin="https://a"
)
DEFAULT = TagPolicy()
WINDOW = TagPolicy(fresh_for_s=60.0, serve_while_checking_s=30.0, stale_for_s=3600.0)
NEVER_STALE = TagPolicy(fresh_for_s=60.0, stale_for_s=0.0)
ALWAYS_ASK = TagPolicy(fresh_for_s=0.0)
ALWAYS_FRESH = TagPolicy(fresh_for_s=FOREVER_S)


@pytest.mark.parametrize(
    ("policy", "age_s", "expected"),
    [
        pytest.param(DEFAULT, 0.0, Freshness.FRESH, id="checked this moment"),
        pytest.param(DEFAULT, 59.9, Freshness.FRESH, id="within fresh_for"),
        pytest.param(DEFAULT, 60.0, Freshness.EXPIRED, id="at fresh_for"),
        pytest.param(DEFAULT, 1e9, Freshness.EXPIRED, id="stale for ever"),
        pytest.param(WINDOW, 60.0, Freshness.CHECK_BEHIND, id="window begins"),
        pytest.param(WINDOW, 89.9, Freshness.CHECK_BEHIND, id="within the window"),
        pytest.param(WINDOW, 90.0, Freshness.EXPIRED, id="window ends"),
        pytest.param(WINDOW, 3659.9, Freshness.EXPIRED, id="within stale_for"),
        pytest.param(WINDOW, 3660.0, Freshness.TOO_OLD, id="past stale_for"),
        pytest.param(NEVER_STALE, 59.9, Freshness.FRESH, id="never stale, fresh"),
        pytest.param(NEVER_STALE, 60.0, Freshness.TOO_OLD, id="never stale, at fresh_for"),
        pytest.param(ALWAYS_ASK, 0.0, Freshness.EXPIRED, id="asks each time"),
        pytest.param(ALWAYS_FRESH, 1e9, Freshness.FRESH, id="fresh for ever"),
        pytest.param(DEFAULT, -1.0, Freshness.EXPIRED, id="a stamp from the future"),
        pytest.param(ALWAYS_FRESH, -1e9, Freshness.EXPIRED, id="a stamp from 2038"),
        pytest.param(NEVER_STALE, -1.0, Freshness.TOO_OLD, id="never stale, from the future"),
    ],
)
def test_a_record_is_judged_by_its_age(policy: TagPolicy, age_s: float, expected: Freshness) -> None:
    """fresh_for, serve_while_checking and stale_for each end exactly where they say (contract: tags; F30)."""
    clock = Clock(RECORD.last_checked)
    clock.advance(age_s)
    assert judge(RECORD, policy, clock()) is expected


def test_the_defaults_are_the_contracts() -> None:
    """A policy without keys is the one that the contract prints."""
    assert (DEFAULT.fresh_for_s, DEFAULT.serve_while_checking_s, DEFAULT.check_within_s) == (60.0, 0.0, 2.0)
    assert (DEFAULT.on_not_found.value, DEFAULT.on_denied.value) == ("serve_stale", "deny")
    assert DEFAULT.missing_for_s == 10.0
    assert math.isinf(DEFAULT.stale_for_s)


def test_a_renewed_record_keeps_when_it_was_first_seen() -> None:
    """Renewing moves the check and its origin, and nothing else."""
    renewed = RECORD.renewed(2000.0, "https://b")
    assert (renewed.last_checked, renewed.origin) == (2000.0, "https://b")
    assert (renewed.first_seen, renewed.descriptor) == (RECORD.first_seen, RECORD.descriptor)
    assert judge(renewed, DEFAULT, 2000.0) is Freshness.FRESH
