"""Realms, URLs and names: where an upstream may lead us."""

import pytest
from yarl import URL

from proxy.upstream.trust import Trusted, UrlOdd, host_of, may_tunnel, parse_url, realm, registrable, same_origin

NOBODY = Trusted.parse(())


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        ("https://registry-1.docker.io", "https://auth.docker.io/token"),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth"),
        ("https://ghcr.io", "https://ghcr.io/token"),
        ("https://r.example.com", "https://R.EXAMPLE.COM./token"),
        ("https://r.example.com", "https://r.example.com:5001/auth"),
        ("https://r.example.co.uk", "https://auth.example.co.uk/token"),
        ("https://10.0.0.1:5000", "https://10.0.0.1:5001/auth"),
        ("http://localhost:5000", "http://localhost:5001/auth"),
        ("http://r.example.com", "https://r.example.com/auth"),
        ("https://x.ns1.svc.cluster.local", "https://auth.ns1.svc.cluster.local/token"),
    ],
)
def test_a_realm_of_the_same_owner_may_see_the_credential(origin: str, text: str) -> None:
    """The registry's own host, with any port, or its registrable domain; and what is dialled is what was judged."""
    assert realm(text, URL(origin), NOBODY).path == URL(text).path


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        pytest.param("https://r.example.com", "https://evil.test/token", id="another domain"),
        pytest.param("https://r.example.com", "https://r.example.com.evil.com/t", id="ours as a prefix"),
        pytest.param("https://r.example.com", "https://evilr.example.org/t", id="another top level"),
        pytest.param("https://example.com", "https://evilexample.com/t", id="ours as a loose suffix"),
        pytest.param("https://r.example.com", "http://r.example.com/t", id="http for an https registry"),
        pytest.param("https://r.example.com", "https://r.example.com@evil.test/t", id="userinfo"),
        pytest.param("https://r.example.com", "https://me@r.example.com/t", id="userinfo on the right host"),
        pytest.param("https://r.example.com", "https://203.0.113.9/t", id="an address literal"),
        pytest.param("https://r.example.com", "https://127.0.0.1/t", id="loopback"),
        pytest.param("https://r.example.com", "https://[::1]/t", id="loopback v6"),
        pytest.param("https://r.example.com", "https://localhost/t", id="localhost"),
        pytest.param("https://10.0.0.1", "https://10.0.0.2/t", id="a neighbouring literal"),
        pytest.param("https://a.azurecr.io", "https://b.azurecr.io/t", id="a neighbour at a cloud"),
        pytest.param("https://a.co.uk", "https://b.co.uk/t", id="a neighbour under a shared suffix"),
        pytest.param("https://r.ns1.svc.cluster.local", "https://r.ns2.svc.cluster.local/t", id="another namespace"),
        pytest.param("https://r.s3.eu-west-1.amazonaws.com", "https://e.s3.eu-west-1.amazonaws.com/t", id="a bucket"),
        pytest.param("https://registry", "https://auth/t", id="single labels"),
        pytest.param("https://r.example.com", "/token", id="no host"),
        pytest.param("https://r.example.com", "ftp://r.example.com/t", id="another scheme"),
        pytest.param("https://r.example.com", "file:///etc/passwd", id="a file"),
        pytest.param("https://r.example.com", "", id="empty"),
    ],
)
def test_a_realm_of_a_stranger_is_refused(origin: str, text: str) -> None:
    """CVE-2026-33540 and its class: the credential stays with the registry's owner."""
    with pytest.raises(UrlOdd):
        realm(text, URL(origin), NOBODY)


def test_configured_realms_are_trusted_with_their_port_and_nothing_more() -> None:
    """A host of any port, a host of one port, a network; neither a subdomain nor http in place of https."""
    trusted = Trusted.parse(["sso.corp.test", "auth.test:8443", "10.1.0.0/16", "[fd00::1]:5000"])
    origin = URL("https://r.example.com")
    for good in (
        "https://sso.corp.test:9/t",
        "https://auth.test:8443/t",
        "https://10.1.2.3/t",
        "https://[fd00::1]:5000/",
    ):
        assert realm(good, origin, trusted).scheme == "https"
    for bad in ("https://x.sso.corp.test/t", "https://auth.test/t", "https://10.2.0.1/t", "http://sso.corp.test/t"):
        with pytest.raises(UrlOdd):
            realm(bad, origin, trusted)


CONFUSING = [
    "http://127.0.0.1:6666\\@1.2.3.4/",
    "https://good.test\\@evil.test/",
    "https://good.test\\.evil.test/",
    "https://good.test@evil.test/",
    "https://good.test:443@evil.test/",
    "https://:@evil.test/",
    "https://@evil.test/",
    "https://good.test%40evil.test/",
    "https://good.test%2eevil.test/",
    "https://good.test%00.evil.test/",
    "https://good.test\x00.evil.test/",
    "https://good.test\t.evil.test/",
    "https://good.test\r\nHost: evil.test/",
    "https://good.test /",
    " https://good.test/",
    "https://good.test/\x7f",
    "https://good.test/é",
    "https://gооd.test/",
    "https://good。test/",
    "https:///evil.test/",
    "https:////evil.test/",
    "https:\\\\evil.test/",
    "https:evil.test/",
    "https:/evil.test/",
    "//",
    "https://",
    "https://?x",
    "https://#x",
    "https://:443/",
    "https://good.test:0/",
    "https://good.test:99999/",
    "https://good.test:-1/",
    "https://good.test:4 43/",
    "https://good.test:44x/",
    "https://[::1/",
    "https://::1]/",
    "https://[::1]evil.test/",
    "https://[fe80::1%25eth0]/",
    "https://[fe80::1%eth0]/",
    "https://[good.test]/",
    "https://good.test,evil.test/",
    "https://good.test;evil.test/",
    "https://good.test|evil.test/",
    "https://good.test`evil.test/",
    'https://good.test"evil.test/',
    "https://<good.test>/",
    "https://{good.test}/",
    "https://good^test/",
    "https://-good.test/",
    "https://*.good.test/",
    "javascript:alert(1)",
    "data:text/plain,x",
    "gopher://good.test/",
    "unix:///run/docker.sock",
    "ws://good.test/",
]


@pytest.mark.parametrize("text", CONFUSING)
def test_confusing_urls_are_refused(text: str) -> None:
    """What two parsers could read in two ways is not followed at all, in a realm, a Location or a Link."""
    with pytest.raises(UrlOdd):
        parse_url(text)


@pytest.mark.parametrize("text", CONFUSING)
def test_a_confusing_location_never_reaches_another_host(text: str) -> None:
    """Relative to the registry such a text is refused too, or stays on the registry's own host."""
    base = URL("https://good.test/v2/x")
    try:
        assert host_of(parse_url(text, base)) == "good.test"
    except UrlOdd:
        return


def test_a_url_keeps_its_bytes() -> None:
    """Signatures survive: nothing behind the host is decoded or quoted anew, the host alone is lowered."""
    url = parse_url("https://CDN.Test/%7Ea%2Fb//c?X-Sig=a%2Fb%3D%7e&e=+#frag")
    assert str(url) == "https://cdn.test/%7Ea%2Fb//c?X-Sig=a%2Fb%3D%7e&e=+"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("registry-1.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("a.b.example.com.au", "example.com.au"),
        ("com.au", None),
        ("foo.azurecr.io", "foo.azurecr.io"),
        ("azurecr.io", None),
        ("localhost", None),
        ("10.0.0.1", None),
        ("::1", None),
        ("a..b", None),
    ],
)
def test_the_registrable_domain(host: str, expected: str | None) -> None:
    """Two labels, more under suffixes that strangers share; none for addresses and single labels."""
    assert registrable(host) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://r.test", "https://R.TEST.:443/x", True),
        ("https://r.test", "https://r.test:444", False),
        ("https://r.test", "http://r.test", False),
        ("https://r.test", "https://r.test.evil.test", False),
        ("https://r.test", "https://evilr.test", False),
    ],
)
def test_one_origin_is_scheme_host_and_port(one: str, other: str, same: bool) -> None:
    """Credentials go by the whole origin, compared after case and trailing dot."""
    assert same_origin(URL(one), URL(other, encoded=True)) is same


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://cdn.example.com/x", True),
        ("https://52.1.1.1/x", True),
        ("https://localhost/", False),
        ("https://intranet/", False),
        ("https://metadata.google.internal/", False),
        ("https://db.corp/", False),
        ("https://printer.local/", False),
        ("https://10.0.0.1/", False),
        ("https://169.254.169.254/", False),
        ("https://[fd00:ec2::254]/", False),
        ("https://2130706433/", False),
        ("https://127.1/", False),
        ("https://0x7f.0x1/", False),
        ("https://x.127.1/", False),
    ],
)
def test_a_proxy_is_asked_for_public_looking_names_only(url: str, allowed: bool) -> None:
    """The proxy resolves by itself, so the name must show that it is not of the house."""
    assert may_tunnel(URL(url)) is allowed
