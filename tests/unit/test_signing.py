"""Signed addresses: what one opens, until when, and that nothing else passes for one."""

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from proxy.errors import LinkRefused
from proxy.oci import Digest
from proxy.signing import STEP_S, VALID_S, Grant, Keys, secrets_in
from tests.support.clock import Clock

OLD, NEW = "a" * 32, "b" * 32
GRANT = Grant(None, "docker.io", "library/nginx", Digest("sha256", "0" * 64))


def keys(clock: Clock, *secrets: str) -> Keys:
    made = Keys(clock)
    made.take(secrets or (OLD,))
    return made


def values_of(address: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(address).query, keep_blank_values=True)


def test_an_address_names_what_was_asked_for(clock: Clock) -> None:
    """Path and `ns` are the client's own, below the data address."""
    made = urlsplit(keys(clock).address("https://data.example/base", GRANT))
    assert (made.netloc, made.path) == ("data.example", f"/base/v2/library/nginx/blobs/{GRANT.digest}")
    assert parse_qs(made.query)["ns"] == ["docker.io"]
    prefixed = replace(GRANT, prefix="docker.io:5000", namespace=None)
    made = urlsplit(keys(clock).address("https://data.example", prefixed))
    assert made.path == f"/docker.io%3A5000/v2/library/nginx/blobs/{GRANT.digest}"
    assert "ns" not in parse_qs(made.query)


@pytest.mark.parametrize("late", range(0, int(STEP_S), 7))
def test_an_address_is_good_for_ten_minutes_at_least(clock: Clock, late: int) -> None:
    """At whatever second of a minute it was made; at its end it is refused, and says why."""
    clock.advance(late)
    signer = keys(clock)
    values = values_of(signer.address("https://d", GRANT))
    clock.advance(VALID_S)
    signer.check(GRANT, values)
    clock.advance(int(values["expires"][0]) - clock() - 0.001)
    signer.check(GRANT, values)
    clock.advance(0.001)
    with pytest.raises(LinkRefused, match="expired"):
        signer.check(GRANT, values)


def test_within_a_step_the_address_is_the_same(clock: Clock) -> None:
    """So that a cache in front can keep what it fetched by it."""
    signer = keys(clock)
    first = signer.address("https://d", GRANT)
    clock.advance(STEP_S - 1)
    assert signer.address("https://d", GRANT) == first
    clock.advance(1)
    assert signer.address("https://d", GRANT) != first


OTHERS = {
    "digest": replace(GRANT, digest=Digest("sha256", "1" * 64)),
    "algorithm": replace(GRANT, digest=Digest("sha512", "0" * 128)),
    "repository": replace(GRANT, name="library/nginy"),
    "namespace": replace(GRANT, namespace="ghcr.io"),
    "no namespace": replace(GRANT, namespace=None),
    "prefix": replace(GRANT, prefix="docker.io"),
    "prefix in place of namespace": replace(GRANT, prefix="docker.io", namespace=None),
    "fields moved by a line break": replace(GRANT, namespace="docker.io\nlibrary/nginx", name=""),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_a_signature_is_for_one_blob_of_one_repository(clock: Clock, other: Grant) -> None:
    """Every field that decides what is read is under it."""
    signer = keys(clock)
    values = values_of(signer.address("https://d", GRANT))
    with pytest.raises(LinkRefused, match="not an address"):
        signer.check(other, values)


TAMPERED = {
    "expires later": {"expires": ["9999999999"]},
    "expires never": {"expires": ["99999999999999999999"]},
    "expires as words": {"expires": ["tomorrow"]},
    "expires with a sign": {"expires": ["+1800000660"]},
    "no expiry": {"expires": []},
    "two expiries": {"expires": ["1800000660", "9999999999"]},
    "another key": {"key": ["00000000"]},
    "no key": {"key": []},
    "no signature": {"signature": []},
    "an empty one": {"signature": [""]},
    "zeros": {"signature": ["0" * 64]},
    "beyond ASCII": {"signature": ["\u0663" * 64]},
    "two signatures": {"signature": ["0" * 64, "1" * 64]},
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_a_changed_address_is_refused(clock: Clock, change: dict[str, list[str]]) -> None:
    """Whatever was changed, the answer is the same: nothing is told of what was right."""
    signer = keys(clock)
    values = values_of(signer.address("https://d", GRANT)) | change
    with pytest.raises(LinkRefused, match="not an address"):
        signer.check(GRANT, values)


def test_each_byte_of_a_signature_counts(clock: Clock) -> None:
    """A signature with one digit changed, anywhere, is none."""
    signer = keys(clock)
    values = values_of(signer.address("https://d", GRANT))
    [right] = values["signature"]
    for at in range(len(right)):
        wrong = right[:at] + ("0" if right[at] != "0" else "1") + right[at + 1 :]
        with pytest.raises(LinkRefused):
            signer.check(GRANT, values | {"signature": [wrong]})


def test_members_with_one_key_take_each_others_addresses(clock: Clock) -> None:
    """And one that does not have it takes none."""
    address = keys(clock, OLD).address("https://d", GRANT)
    keys(clock, NEW, OLD).check(GRANT, values_of(address))
    with pytest.raises(LinkRefused):
        keys(clock, NEW).check(GRANT, values_of(address))


def test_a_key_that_was_replaced_counts_until_its_addresses_expired(clock: Clock) -> None:
    """The new one signs at once; of the old one's addresses none is refused before its time, and all after."""
    signer = keys(clock, OLD)
    clock.advance(STEP_S - 1)
    before = values_of(signer.address("https://d", GRANT))
    signer.take((NEW,))
    assert values_of(signer.address("https://d", GRANT))["key"] != before["key"]
    clock.advance(VALID_S)
    signer.take((NEW,))  # another reload does not let it live on
    signer.check(GRANT, before)
    clock.advance(STEP_S)
    with pytest.raises(LinkRefused):
        signer.check(GRANT, before)


def test_without_a_key_nothing_is_signed(clock: Clock) -> None:
    """An old key that is still good for checking signs nothing."""
    signer = Keys(clock)
    told = [signer.can_sign]
    for secrets in ((OLD,), ()):
        signer.take(secrets)
        told.append(signer.can_sign)
    assert told == [False, True, False]
    with pytest.raises(RuntimeError):
        signer.address("https://d", GRANT)


def test_a_key_does_not_show_in_an_address(clock: Clock) -> None:
    """Its id is no part of it."""
    assert OLD[:8] not in keys(clock, OLD).address("https://d", GRANT)


def test_secrets_are_words_and_long_enough() -> None:
    """One a line, the signing one first; a short one is refused and not repeated."""
    assert secrets_in(f"{NEW}\n{OLD}\n") == [NEW, OLD]
    with pytest.raises(ValueError, match="holds no key"):
        secrets_in(" \n")
    with pytest.raises(ValueError, match="less than 32") as refused:
        secrets_in(f"{NEW}\nhunter2")
    assert "hunter2" not in str(refused.value)
