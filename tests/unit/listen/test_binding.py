"""Sockets in: binding, Unix paths, TLS, and their end."""

import asyncio
import errno
import os
import socket
import ssl
import stat
from pathlib import Path

import pytest

from proxy.config import Address, ConfigInvalid
from proxy.server.certificate import Certificate, context_of
from proxy.server.listen import listen
from tests.support.leaks import open_files
from tests.support.listening import Listen, echo, get, port_of, talk
from tests.support.tls import Authority


async def test_port_0_picks_a_free_one_and_says_which(open_at: Listen) -> None:
    """The URL of a listener is where it answers, and two of them have two ports."""
    first, second = await open_at(), await open_at()
    assert first.url.startswith("http://127.0.0.1:")
    assert port_of(first) not in (0, port_of(second))
    assert (await talk(first, get("/v2/"))).endswith(b"\r\n\r\n/v2/")


async def test_ipv6_is_written_in_brackets(open_at: Listen) -> None:
    """An IPv6 address gives a URL that can be used as it is."""
    listener = await open_at(Address("::1", 0))
    assert listener.url.startswith("http://[::1]:")


async def test_a_taken_port_is_an_error_that_leaks_nothing(open_at: Listen) -> None:
    """Binding where another listens is EADDRINUSE, for TCP; no socket stays behind."""
    listener = await open_at()
    files = open_files()
    with pytest.raises(OSError, match="in use") as caught:
        await listen(Address("127.0.0.1", port_of(listener)), echo)
    assert caught.value.errno == errno.EADDRINUSE
    assert open_files() == files


async def test_an_address_that_is_not_ours_is_an_error() -> None:
    """A host that this machine does not have cannot be bound."""
    with pytest.raises(OSError, match="assign"):
        await listen(Address("192.0.2.1", 0), echo)


async def test_a_unix_socket_is_ours_alone(short_tmp: Path, open_at: Listen) -> None:
    """A Unix socket has mode 0600, is served, and the process's umask is as it was."""
    before = os.umask(0o022)
    try:
        listener = await open_at(Address(path=short_tmp / "c.sock"))
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert listener.url == f"unix:{short_tmp / 'c.sock'}"
    assert stat.S_IMODE((short_tmp / "c.sock").stat().st_mode) == 0o600
    reader, writer = await asyncio.open_unix_connection(str(short_tmp / "c.sock"))
    writer.write(get("/v2/"))
    assert (await reader.read()).endswith(b"/v2/")
    writer.close()
    await writer.wait_closed()


async def test_a_dead_servers_unix_socket_is_replaced(short_tmp: Path, open_at: Listen) -> None:
    """What a killed server left behind does not stop the next one."""
    path = short_tmp / "c.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    await open_at(Address(path=path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_living_servers_unix_socket_is_not_taken(short_tmp: Path, open_at: Listen) -> None:
    """A socket on which somebody listens is EADDRINUSE and goes on answering."""
    address = Address(path=short_tmp / "c.sock")
    await open_at(address)
    with pytest.raises(OSError, match="another server listens"):
        await listen(address, echo)
    reader, writer = await asyncio.open_unix_connection(str(address.path))
    writer.write(get("/v2/"))
    assert (await reader.read()).endswith(b"/v2/")
    writer.close()
    await writer.wait_closed()


async def test_a_file_at_the_sockets_path_is_never_deleted(short_tmp: Path) -> None:
    """A wrong `listen: unix:` costs no file: a plain file, and a link to one, are refused and stay."""
    (short_tmp / "precious").write_bytes(b"x")
    (short_tmp / "link").symlink_to(short_tmp / "precious")
    for name in ("precious", "link"):
        with pytest.raises(OSError, match="in use"):
            await listen(Address(path=short_tmp / name), echo)
    assert (short_tmp / "link").is_symlink()
    assert (short_tmp / "precious").read_bytes() == b"x"


async def test_tls_is_1_2_or_later(tmp_path: Path, ca: Authority, open_at: Listen) -> None:
    """A client of today is served over TLS, one that offers TLS 1.1 at most is refused."""
    context = context_of(*ca.files(tmp_path, "localhost"))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    listener = await open_at(tls=context)
    assert listener.url.startswith("https://127.0.0.1:")
    assert (await talk(listener, get("/v2/"), ca.client())).endswith(b"/v2/")
    old = ca.client()
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionResetError)):  # an alert, or what is left of it after the close
        await talk(listener, get("/v2/"), old)


async def test_bad_tls_files_are_a_bad_config(tmp_path: Path, ca: Authority) -> None:
    """Files that are missing, hold no certificate, or do not fit together are named."""
    with pytest.raises(ConfigInvalid, match=r"none\.crt and .*none\.key do not serve: No such file"):
        context_of(tmp_path / "none.crt", tmp_path / "none.key")
    (tmp_path / "bad.pem").write_text("not a certificate")
    with pytest.raises(ConfigInvalid, match=r"bad\.pem"):
        context_of(tmp_path / "bad.pem", tmp_path / "bad.pem")
    chain, _ = ca.files(tmp_path, "localhost")
    (tmp_path / "other").mkdir()
    _, other = ca.files(tmp_path / "other", "localhost")
    with pytest.raises(ConfigInvalid, match="do not serve"):
        context_of(chain, other)


@pytest.mark.parametrize("name", ["localhost", None], ids=["the client names the server", "it names none"])
async def test_a_replaced_certificate_is_shown_to_the_next_connection(
    tmp_path: Path, ca: Authority, open_at: Listen, name: str | None
) -> None:
    """The connection that stands keeps the old one, and goes on."""
    other = Authority(tmp_path)
    certificate = Certificate(context_of(*ca.files(tmp_path, "localhost")))
    listener = await open_at(tls=certificate.front)

    async def connected(trusted: Authority) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = trusted.client()
        context.check_hostname = name is not None
        return await asyncio.open_connection("127.0.0.1", port_of(listener), ssl=context, server_hostname=name or "")

    async def asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        return await reader.readuntil(b"/v2/")

    old = await connected(ca)
    assert (await asked(*old)).startswith(b"HTTP/1.1 200")
    certificate.take(context_of(*other.files(tmp_path, "localhost")))
    new = await connected(other)
    assert (await asked(*new)).startswith(b"HTTP/1.1 200")
    assert (await asked(*old)).startswith(b"HTTP/1.1 200")
    with pytest.raises(ssl.SSLCertVerificationError):
        await connected(ca)
    for _, writer in (old, new):
        writer.transport.abort()


async def test_a_tls_hello_on_a_plain_port_is_answered_at_once(open_at: Listen) -> None:
    """A client that tries https first hears an error quickly and falls back (C06)."""
    hello = bytes.fromhex("16030100a5010000a10303") + b"\0" * 155 + b"\r\n\r\n"
    assert (await talk(await open_at(), hello)).startswith(b"HTTP/1.0 400")


async def test_stopping_refuses_new_and_keeps_old_connections(open_at: Listen) -> None:
    """After `stop_accepting` nobody new is let in, who is connected is answered, and `connections` counts them."""
    listener = await open_at()  # stopped once more by the fixture, which is no error
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(listener))
    writer.write(b"GET /v2/a HTTP/1.1\r\nHost: a\r\n\r\n")
    assert (await reader.readuntil(b"/v2/a")).startswith(b"HTTP/1.1 200")
    assert listener.connections == 1
    await listener.stop_accepting()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port_of(listener))
    writer.write(get("/v2/b"))
    assert (await reader.read()).endswith(b"/v2/b")
    writer.close()
    await writer.wait_closed()
