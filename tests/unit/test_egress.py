"""The way out: which proxy for which URL."""

import pytest
from yarl import URL

from proxy.errors import ConfigInvalid
from proxy.upstream.egress import Egress, Proxy

ENV = {
    "HTTPS_PROXY": "http://proxy.test:3128",
    "http_proxy": "plain.test:8080",
    "NO_PROXY": "corp.test,.sub.test, 10.0.0.0/8,192.168.1.1,port.test:5000,*.star.test,[fd00::1]",
}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://registry.test/", "http://proxy.test:3128"),
        ("http://registry.test/", "http://plain.test:8080"),
        ("https://corp.test/", None),
        ("https://a.corp.test/", None),
        ("https://evilcorp.test/", "http://proxy.test:3128"),
        ("https://sub.test/", "http://proxy.test:3128"),
        ("https://a.sub.test/", None),
        ("https://a.star.test/", None),
        ("https://10.9.9.9/", None),
        ("https://11.9.9.9/", "http://proxy.test:3128"),
        ("https://192.168.1.1/", None),
        ("https://[fd00::1]/", None),
        ("https://port.test:5000/", None),
        ("https://port.test/", "http://proxy.test:3128"),
        ("https://localhost/", None),
        ("https://127.0.0.9/", None),
    ],
)
def test_the_environment_names_the_proxy_and_its_exemptions(url: str, expected: str | None) -> None:
    """HTTPS_PROXY, HTTP_PROXY and NO_PROXY as Go reads them, in either case of letters."""
    found = Egress("env", ENV).proxy_for(URL(url))
    assert (found and str(found.url)) == (expected or None)


def test_none_and_a_url_ignore_the_environment() -> None:
    """`none` goes directly whatever the environment says; a URL is used for every host."""
    url = URL("https://corp.test/")
    assert Egress("none", ENV).proxy_for(url) is None
    fixed = Egress("http://fixed.test:1", {**ENV, "NO_PROXY": "*"}).proxy_for(url)
    assert fixed is not None
    assert fixed.url == URL("http://fixed.test:1")


def test_a_star_exempts_all_and_cgi_takes_no_proxy_from_a_header() -> None:
    """NO_PROXY=* switches proxies off; under CGI HTTP_PROXY is what a client sent (CVE-2016-5385)."""
    assert Egress("env", {**ENV, "NO_PROXY": "*"}).proxy_for(URL("https://a.test")) is None
    cgi = Egress("env", {"HTTP_PROXY": "http://evil.test", "REQUEST_METHOD": "GET"})
    assert cgi.proxy_for(URL("http://a.test")) is None


def test_a_proxys_userinfo_goes_into_a_header_and_no_repr() -> None:
    """Percent-encoded user and password become Proxy-Authorization; URL and repr are free of them."""
    proxy = Proxy.parse("http://us%40er:pa%3Ass@proxy.test:3128")
    assert proxy.headers == {"Proxy-Authorization": "Basic dXNAZXI6cGE6c3M="}
    assert str(proxy.url) == "http://proxy.test:3128"
    assert "pa" not in repr(proxy)


@pytest.mark.parametrize("text", ["socks5://p:1", "ftp://p", "http://"])
def test_other_kinds_of_proxy_are_refused(text: str) -> None:
    """What we cannot speak to is said at load."""
    with pytest.raises(ConfigInvalid):
        Proxy.parse(text)
