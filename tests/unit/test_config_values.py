"""The config file's values: units, shares, hosts, URLs and addresses, in one form each or refused."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config import Address, Share, units
from tests.support.refused import CANARY


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0B", 0),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("1.5 MiB", 1_572_864),
        ("20GiB", 20 * 1024**3),
        ("3GB", 3 * 10**9),
        ("2TB", 2 * 10**12),
        ("2TiB", 2 * 1024**4),
        ("7MB", 7_000_000),
    ],
)
def test_a_size_has_a_unit(written: str, expected: int) -> None:
    """Sizes are exact bytes, in powers of 1000 or 1024 as their unit says."""
    assert units.size(written) == expected


@pytest.mark.parametrize(
    "written", [20, "20", "20gib", "GiB", "-1KB", "1e3KB", "1,5KB", "20GiBs", "٣KB", "", None, True]
)
def test_a_size_without_a_proper_unit_is_refused(written: Any) -> None:
    """A bare number or an unknown unit is never guessed at."""
    with pytest.raises(ValueError, match="must be a size"):
        units.size(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [("250ms", 0.25), ("30s", 30), ("5m", 300), ("1.5h", 5400), ("2d", 172_800), ("forever", math.inf), ("0s", 0)],
)
def test_a_time_has_a_unit(written: str, expected: float) -> None:
    """Times are seconds, and forever is infinity."""
    assert units.seconds_or_forever(written) == expected


@pytest.mark.parametrize("written", [30, "30", "30S", "1h30m", "-1s", "1:30", "1w", "infinity", "", None])
def test_a_time_without_a_proper_unit_is_refused(written: Any) -> None:
    """A bare number or an unknown unit is never guessed at."""
    with pytest.raises(ValueError, match="must be a time"):
        units.seconds_or_forever(written)


@given(st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_value_or_refused(written: str) -> None:
    """No text makes a reader of values fail in another way than by refusing it."""
    readers = [units.size, units.share, units.seconds_or_forever, units.host, units.http_url, Address.parse, units.flag]
    for reader in readers:
        try:
            reader(written)
        except ValueError:
            continue


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("50%", Share(percent=50)),
        ("12.5%", Share(percent=12.5)),
        ("1KiB", Share(bytes=1024)),
        ("100%", Share(percent=100)),
    ],
)
def test_a_share_is_a_size_or_a_percentage(written: str, expected: Share) -> None:
    """Where the contract allows it, a size may be a part of the file system."""
    assert units.share(written) == expected


@pytest.mark.parametrize("written", ["101%", "-1%", "50", "%", "half"])
def test_a_share_of_more_than_all_is_refused(written: str) -> None:
    """A percentage lies between 0 and 100."""
    with pytest.raises(ValueError, match="must be"):
        units.share(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("Docker.IO", "docker.io"),
        ("docker.io:443", "docker.io"),
        ("localhost:5000", "localhost:5000"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("[::1]:5000", "[::1]:5000"),
        ("[0:0::1]", "[::1]"),
        ("10.0.0.1:80", "10.0.0.1:80"),
    ],
)
def test_a_host_is_normalised_once(written: str, expected: str) -> None:
    """Case, IDNA, IPv6 spelling and the default port do not make another name."""
    assert units.host(written) == expected


CONFUSING = [
    "",
    "a b",
    "user@host",
    "https://host",
    "host/path",
    "host?x",
    "host#x",
    "a..b",
    "-a.b",
    "host:0",
    "host:65536",
    "host:port",
    "127.1",
    "0177.0.0.1",
    "2130706433",
    "0x7f.0.0.1",
    "0x7f000001",
    "1.2.3.256",
    "[::1",
    "[::g]",
    "a\\b",
    "a\nb",
    "a_b.example",
    "a." + "b" * 255,
]


@pytest.mark.parametrize("written", CONFUSING)
def test_a_host_that_parsers_could_read_in_two_ways_is_refused(written: str) -> None:
    """Only a plain host name, dotted quad or bracketed IPv6 address is a host."""
    with pytest.raises(ValueError, match=r".+"):
        units.host(written)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("HTTPS://Reg.Example:443/", "https://reg.example"),
        ("http://reg.example:80", "http://reg.example"),
        ("http://reg.example:5000", "http://reg.example:5000"),
        ("https://art.example/artifactory/api/docker/remote/", "https://art.example/artifactory/api/docker/remote"),
        ("https://[::1]:5000", "https://[::1]:5000"),
    ],
)
def test_a_url_is_normalised_once(written: str, expected: str) -> None:
    """Scheme, host and default port have one spelling; a base path stays."""
    assert units.http_url(written) == expected


@pytest.mark.parametrize(
    "written",
    [
        "reg.example",
        "ftp://reg.example",
        "https://",
        "https:///x",
        f"https://me:{CANARY}@reg.example",
        "https://reg.example?x=1",
        "https://reg.example/#x",
        "https://reg.example/a/../b",
        "https://reg.example//b",
        "https://reg.example/%2e",
        "https://reg.example/v2/",
        "http://127.0.0.1:6666\\@1.2.3.4/",
        "https://reg.example:x",
        "https://2130706433/",
        "https://reg.example\r\nHost: x",
    ],
)
def test_a_url_with_more_than_a_base_is_refused(written: str) -> None:
    """Userinfo, query, fragment, dot segments and what parsers disagree on have no place in an endpoint."""
    with pytest.raises(ValueError, match=r".+") as refused:
        units.http_url(written)
    assert CANARY not in str(refused.value)


@pytest.mark.parametrize(
    ("written", "shown", "is_local"),
    [
        ("127.0.0.1:5090", "127.0.0.1:5090", True),
        ("0.0.0.0:80", "0.0.0.0:80", False),
        ("localhost:0", "localhost:0", True),
        ("[::1]:5090", "[::1]:5090", True),
        ("[::]:5090", "[::]:5090", False),
        ("cache.example:5090", "cache.example:5090", False),
        ("unix:/run/cistern.sock", "unix:/run/cistern.sock", True),
    ],
)
def test_an_address_to_listen_on(written: str, shown: str, is_local: bool) -> None:
    """HOST:PORT, bracketed IPv6 or a Unix socket; what only this machine reaches is known by the literal."""
    address = Address.parse(written)
    assert (str(address), address.is_local) == (shown, is_local)


@pytest.mark.parametrize(
    "written", ["5090", ":5090", "host", "::1:5090", "host:99999", "unix:sock", "host:-1", "[x]:1"]
)
def test_an_address_that_is_none_is_refused(written: str) -> None:
    """A missing host or port, or a relative socket path, is refused."""
    with pytest.raises(ValueError, match=r".+"):
        Address.parse(written)
