"""WWW-Authenticate, as registries and proxies really write it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.upstream.challenge import Challenge, parse, pick

HUB = 'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push"'


def bearer(**parameters: str) -> Challenge:
    return Challenge("bearer", parameters)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            [HUB],
            [
                bearer(
                    realm="https://auth.docker.io/token",
                    service="registry.docker.io",
                    scope="repository:a/b:pull,push",
                )
            ],
            id="docker hub, a comma inside quotes",
        ),
        pytest.param(
            ["Negotiate, " + 'Bearer realm="https://h/t"'],
            [Challenge("negotiate", {}), bearer(realm="https://h/t")],
            id="negotiate first",
        ),
        pytest.param(
            ["Negotiate TlRMTVNTUAAB==, Basic realm=x"],
            [Challenge("negotiate", {}), Challenge("basic", {"realm": "x"})],
            id="token68",
        ),
        pytest.param(
            ["NTLM", 'bEaReR ReAlM="https://h/t" , SERVICE=s'],
            [Challenge("ntlm", {}), bearer(realm="https://h/t", service="s")],
            id="two lines, any case",
        ),
        pytest.param(
            ['Basic realm="a, b", Bearer realm=https://h/t?x=1,service=s'],
            [Challenge("basic", {"realm": "a, b"}), bearer(realm="https://h/t?x=1", service="s")],
            id="two in one line, an unquoted URL",
        ),
        pytest.param(
            [r'Basic realm="say \"hi\" \\ there"'],
            [Challenge("basic", {"realm": r'say "hi" \ there'})],
            id="escapes",
        ),
        pytest.param(
            ['Bearer realm = "https://h/t" service = "s"'],
            [bearer(realm="https://h/t", service="s")],
            id="white space, a missing comma",
        ),
        pytest.param(
            ['Bearer realm="https://first/t",realm="https://second/t"'],
            [bearer(realm="https://first/t")],
            id="the first of two realms counts",
        ),
        pytest.param(["Basic"], [Challenge("basic", {})], id="bare"),
        pytest.param([""], [], id="empty"),
        pytest.param([", ,"], [], id="commas"),
        pytest.param(['="x"'], [], id="no scheme"),
        pytest.param(['Bearer realm="https://h/t'], [bearer()], id="a quote left open names no realm"),
    ],
)
def test_challenges_are_read(lines: list[str], expected: list[Challenge]) -> None:
    """Every scheme with its parameters, in order; what cannot be read ends the line."""
    assert parse(lines) == expected


@pytest.mark.parametrize(
    ("lines", "scheme"),
    [
        (["Negotiate", "Basic realm=x", HUB], "bearer"),
        (["Negotiate", "Basic realm=x"], "basic"),
        (["Bearer", "Basic realm=x"], "basic"),
        (["Negotiate", "Digest realm=x"], None),
        ([], None),
    ],
)
def test_a_bearer_with_a_realm_is_answered_before_a_basic(lines: list[str], scheme: str | None) -> None:
    """Of several challenges the strongest that we speak is picked; a Bearer without a realm leads nowhere."""
    picked = pick(parse(lines))
    assert (picked.scheme if picked else None) == scheme


@given(st.lists(st.text(), max_size=3))
def test_no_header_raises(lines: list[str]) -> None:
    """Whatever an upstream sends is read without an error, each scheme in lower case."""
    assert all(one.scheme == one.scheme.lower() for one in parse(lines))
