"""TLS to upstreams: always verified, a private CA for its own upstream only, also through a CONNECT proxy."""

import asyncio
import datetime
import os
import ssl
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trustme

from proxy.errors import ConfigInvalid, DialRefused, UpstreamUnavailable
from proxy.tasks import Tasks
from proxy.upstream.client import Clients
from proxy.upstream.contexts import read, tls_context
from tests.support.waiting import settled
from tests.unit.upstream_peers import NAME, Asked, Peer, Reply, Resolver, clients, config, source

MANIFEST = b"{}"
TABLE = {"registry_test": ["127.0.0.1"], "other_test": ["127.0.0.1"]}


def server(ca: trustme.CA, *names: str, expired: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = ca.issue_cert(*names, not_after=past) if expired else ca.issue_cert(*names)
    certificate.configure_cert(context)
    return context


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(ca: trustme.CA, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(file))
    return file


class Mute(Peer):
    """It hangs up before a handshake."""

    async def _read(self, reader: asyncio.StreamReader, connection: int) -> Asked | None:
        return None


def answer(_asked: Asked) -> Reply:
    return Reply(body=MANIFEST)


async def test_a_private_ca_is_trusted_for_its_upstream(ca: trustme.CA, ca_file: Path) -> None:
    """With the CA the name is verified and served; without it, the same server is refused, and says why."""
    async with Peer(answer, tls=server(ca, NAME)) as registry:
        url = registry.url(NAME)
        async with clients(config(url, tls={"ca": str(ca_file)}), resolver=Resolver(**TABLE)) as upstreams:
            assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST
        async with clients(config(url), resolver=Resolver(**TABLE)) as upstreams:
            with pytest.raises(UpstreamUnavailable, match="certificate"):
                await upstreams.get_manifest(source(), "1")
        assert len(registry.asked) == 1


async def test_a_ca_file_that_gives_no_answer_yet_keeps_the_loop_free(ca: trustme.CA, tmp_path: Path) -> None:
    """A mount may hang at the start: signals are heard meanwhile, and once it answers all goes on."""
    slow = tmp_path / "slow.pem"
    os.mkfifo(slow)
    async with Peer(answer, tls=server(ca, NAME)) as registry, AsyncExitStack() as stack:
        settings = config(registry.url(NAME), tls={"ca": str(slow)})
        opening = asyncio.ensure_future(stack.enter_async_context(clients(settings, resolver=Resolver(**TABLE))))
        await settled()
        assert not opening.done()
        await asyncio.to_thread(slow.write_bytes, ca.cert_pem.bytes())
        assert (await (await opening).get_manifest(source(), "1")).body == MANIFEST


async def test_a_ca_of_one_upstream_is_none_of_another(ca: trustme.CA, ca_file: Path) -> None:
    """Two upstreams on one server: only the one that names the CA is served, though the other asks later."""
    async with Peer(answer, tls=server(ca, NAME)) as registry, Tasks() as tasks:
        both = config(registry.url(NAME), tls={"ca": str(ca_file)})
        plain = config(registry.url(NAME)).upstreams[NAME]
        settings = both.replaced(upstreams={NAME: both.upstreams[NAME], "b.test": plain})
        async with Clients(settings, tasks, resolver=Resolver(**TABLE), environ={}) as upstreams:
            await upstreams.get_manifest(source(), "1")
            with pytest.raises(UpstreamUnavailable):
                await upstreams.get_manifest(type(source())("b.test", "x"), "1")


@pytest.mark.parametrize("flaw", ["wrong host", "expired", "old protocol", "not TLS"])
async def test_a_flawed_server_is_refused(flaw: str, ca: trustme.CA, ca_file: Path) -> None:
    """No certificate but a right one, no TLS below 1.2: an outage with its reason, which the breaker counts."""
    tls = server(ca, "wrong.test" if flaw == "wrong host" else NAME, expired=flaw == "expired")
    if flaw == "old protocol":
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            tls.maximum_version = ssl.TLSVersion.TLSv1_1
    async with Mute(answer) if flaw == "not TLS" else Peer(answer, tls=tls) as registry:
        settings = config(f"https://{NAME}:{registry.port}", tls={"ca": str(ca_file)}, breaker={"failures": 2})
        async with clients(settings, resolver=Resolver(**TABLE)) as upstreams:
            for _ in range(3):
                with pytest.raises(UpstreamUnavailable):
                    await upstreams.get_manifest(source(), "1")
            assert upstreams.endpoints(NAME)[0].breaker.is_open
        assert registry.asked == []


async def test_https_leads_to_no_http(ca: trustme.CA, ca_file: Path) -> None:
    """Neither a redirect nor a realm may leave TLS."""
    async with Peer(answer) as plain:
        replies = iter(
            [
                Reply(307, [("Location", plain.url())]),
                Reply(401, [("WWW-Authenticate", f'Bearer realm="http://{NAME}:{plain.port}/t"')]),
            ]
        )
        async with Peer(lambda _asked: next(replies), tls=server(ca, NAME)) as registry:
            settings = config(registry.url(NAME), tls={"ca": str(ca_file)})
            async with clients(settings, resolver=Resolver(**TABLE)) as upstreams:
                for _ in range(2):
                    with pytest.raises(DialRefused):
                        await upstreams.get_manifest(source(), "1")
        assert plain.connections == 0


async def test_through_a_connect_proxy_the_upstream_is_verified(ca: trustme.CA, ca_file: Path) -> None:
    """The proxy sees CONNECT and its own password; the tunnel's end must be the upstream."""
    async with Peer(answer, tls=server(ca, NAME)) as registry:
        async with Peer(lambda _asked: Reply(body=str(registry.port).encode())) as proxy:
            environ = {"HTTPS_PROXY": f"http://me:pw@127.0.0.1:{proxy.port}"}
            right, wrong = (
                config(f"https://{host}:5000", tls={"ca": str(ca_file)}, proxy="env") for host in (NAME, "other.test")
            )
            async with clients(right, environ=environ) as upstreams:
                assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST
            async with clients(wrong, environ=environ) as upstreams:
                with pytest.raises(UpstreamUnavailable, match="certificate"):
                    await upstreams.get_manifest(source(), "1")
        assert proxy.targets() == [f"{NAME}:5000", "other.test:5000"]
        assert proxy.asked[0].headers["Proxy-Authorization"] == "Basic bWU6cHc="
        assert [asked.headers.get("Proxy-Authorization") for asked in registry.asked] == [None]


async def test_a_proxy_that_refuses_is_an_outage() -> None:
    """407 of the proxy is no denial of the registry, and shows no password."""
    async with Peer(lambda _asked: Reply(407)) as proxy:
        environ = {"HTTPS_PROXY": f"http://me:CANARY@127.0.0.1:{proxy.port}"}
        async with clients(config(f"https://{NAME}", proxy="env"), environ=environ) as upstreams:
            with pytest.raises(UpstreamUnavailable, match="407") as failed:
                await upstreams.get_manifest(source(), "1")
        assert "CANARY" not in str(failed.value)


def test_a_ca_file_that_holds_none_is_a_bad_config(tmp_path: Path) -> None:
    """Missing or empty: refused at start, naming the file."""
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for file in (empty, tmp_path / "missing.pem"):
        with pytest.raises(ConfigInvalid, match=file.name):
            read(config(f"https://{NAME}", tls={"ca": str(file)}).upstreams)
    assert tls_context().minimum_version is ssl.TLSVersion.TLSv1_2
