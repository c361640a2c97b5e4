"""The table of addresses."""

import pytest

from proxy.upstream.addresses import Kind, kind, parse

EMBEDDED_METADATA = "a9fe:a9fe"  # 169.254.169.254


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.1.1.1", Kind.PUBLIC),
        ("52.217.0.1", Kind.PUBLIC),
        ("172.15.255.255", Kind.PUBLIC),
        ("172.32.0.0", Kind.PUBLIC),
        ("100.63.255.255", Kind.PUBLIC),
        ("100.128.0.0", Kind.PUBLIC),
        ("2600:1f18::1", Kind.PUBLIC),
        ("2001:4860:4860::8888", Kind.PUBLIC),
        ("127.0.0.1", Kind.PRIVATE),
        ("127.255.255.254", Kind.PRIVATE),
        ("10.0.0.1", Kind.PRIVATE),
        ("172.16.0.1", Kind.PRIVATE),
        ("172.31.255.255", Kind.PRIVATE),
        ("192.168.1.1", Kind.PRIVATE),
        ("100.64.0.1", Kind.PRIVATE),
        ("0.0.0.0", Kind.PRIVATE),
        ("::1", Kind.PRIVATE),
        ("::", Kind.PRIVATE),
        ("fd12:3456::1", Kind.PRIVATE),
        ("fec0::1", Kind.PRIVATE),
        ("169.254.169.254", Kind.NEVER),
        ("169.254.170.2", Kind.NEVER),
        ("100.100.100.200", Kind.NEVER),
        ("192.0.0.192", Kind.NEVER),
        ("168.63.129.16", Kind.NEVER),
        ("224.0.0.1", Kind.NEVER),
        ("255.255.255.255", Kind.NEVER),
        ("fe80::1", Kind.NEVER),
        ("fe80::1%eth0", Kind.NEVER),
        ("fd00:ec2::254", Kind.NEVER),
        ("fd20:ce::254", Kind.NEVER),
        ("ff02::1", Kind.NEVER),
        ("192.0.0.1", Kind.RESERVED),
        ("198.18.0.1", Kind.RESERVED),
        ("198.51.100.1", Kind.RESERVED),
        ("203.0.113.1", Kind.RESERVED),
        ("240.0.0.1", Kind.RESERVED),
        ("2001:db8::1", Kind.RESERVED),
        ("100::1", Kind.RESERVED),
        ("4000::1", Kind.RESERVED),
        ("5f00::1", Kind.RESERVED),
    ],
)
def test_the_kind_of_an_address(text: str, expected: Kind) -> None:
    """Networks of the house, of nobody and of the clouds' metadata are told from the public net."""
    address = parse(text)
    assert address is not None
    assert kind(address) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("::ffff:169.254.169.254", Kind.NEVER, id="v4-mapped metadata"),
        pytest.param("::ffff:127.0.0.1", Kind.PRIVATE, id="v4-mapped loopback"),
        pytest.param("::ffff:1.1.1.1", Kind.PUBLIC, id="v4-mapped public"),
        pytest.param(f"64:ff9b::{EMBEDDED_METADATA}", Kind.NEVER, id="NAT64 metadata"),
        pytest.param("64:ff9b::10.0.0.1", Kind.PRIVATE, id="NAT64 private"),
        pytest.param("64:ff9b::1.1.1.1", Kind.PUBLIC, id="NAT64 public, as on an IPv6-only host"),
        pytest.param(f"64:ff9b:1::{EMBEDDED_METADATA}", Kind.NEVER, id="local NAT64, /96"),
        pytest.param("64:ff9b:1:a9fe:a9:fe00::", Kind.NEVER, id="local NAT64, /48"),
        pytest.param("64:ff9b:1::1.1.1.1", Kind.RESERVED, id="local NAT64 public"),
        pytest.param(f"2002:{EMBEDDED_METADATA}::", Kind.NEVER, id="6to4 metadata"),
        pytest.param("2002:101:101::", Kind.RESERVED, id="6to4 public"),
        pytest.param("2001:0:a9fe:a9fe::1", Kind.NEVER, id="Teredo server metadata"),
        pytest.param("2001:0:4136:e378:8000:63bf:5601:5601", Kind.NEVER, id="Teredo client metadata"),
        pytest.param("::169.254.169.254", Kind.NEVER, id="v4-compatible metadata"),
        pytest.param("::1.1.1.1", Kind.RESERVED, id="v4-compatible public"),
        pytest.param("::ffff:0:169.254.169.254", Kind.NEVER, id="SIIT metadata"),
    ],
)
def test_an_address_is_never_kinder_than_the_one_it_carries(text: str, expected: Kind) -> None:
    """No translated form smuggles a metadata or private address past the table."""
    address = parse(text)
    assert address is not None
    assert kind(address) is expected


@pytest.mark.parametrize("text", ["localhost", "2130706433", "0x7f.1", "127.1", "017700000001", "", "::g"])
def test_what_is_no_canonical_address_is_a_name(text: str) -> None:
    """Legacy number forms are names: they go through the resolver, and its answer is checked."""
    assert parse(text) is None
