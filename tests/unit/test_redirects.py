"""Redirects: where they lead, what goes along, what comes of expired URLs."""

import pytest
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import DialRefused, UpstreamLied, UpstreamNotFound, UpstreamUnavailable
from proxy.upstream.redirects import HOPS_MAX, next_hop
from tests.unit.upstream_peers import (
    NAME,
    Asked,
    Peer,
    Reply,
    Resolver,
    clients,
    config,
    digest_of,
    receive,
    source,
)

U = "registry.test"
HTTPS = [URL("https://registry.test/v2/a/blobs/x")]
BLOB = b"0123456789" * 1000
SIGNED = "/b%7E/%2F//x?X-Amz-Signature=a%2Fb%3D%7e+&e=%20"


def location(text: str) -> CIMultiDict[str]:
    return CIMultiDict(Location=text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://cdn.test" + SIGNED, "https://cdn.test" + SIGNED),
        ("//cdn.test/x", "https://cdn.test/x"),
        ("/v2/b", "https://registry.test/v2/b"),
        ("y?z=%7e", "https://registry.test/v2/a/blobs/y?z=%7e"),
        ("?z", "https://registry.test/v2/a/blobs/x?z"),
    ],
)
def test_the_location_is_kept_byte_for_byte(text: str, expected: str) -> None:
    """Absolute or relative, nothing is decoded or quoted anew (U14)."""
    assert str(next_hop(U, HTTPS, location(text))) == expected


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        (CIMultiDict(), UpstreamLied),
        (CIMultiDict([("Location", "/a"), ("Location", "/b")]), UpstreamLied),
        (location("https://registry.test/v2/a/blobs/x"), UpstreamLied),
        (location("http://registry.test/v2/a/blobs/y"), DialRefused),
        (location("https://me:pw@cdn.test/"), DialRefused),
        (location("https://good.test\\@evil.test/"), DialRefused),
        (location("file:///etc/passwd"), DialRefused),
        (location(""), DialRefused),
    ],
)
def test_locations_that_are_not_followed(headers: CIMultiDict[str], error: type[Exception]) -> None:
    """None, several, a loop, https to http, userinfo, odd URLs."""
    with pytest.raises(error):
        next_hop(U, HTTPS, headers)


def test_a_detour_over_http_does_not_hide_the_downgrade() -> None:
    """Once https, always https: also two hops later; and hops end."""
    trail = [URL("http://r.test/"), URL("https://r.test/"), URL("https://cdn.test/")]
    with pytest.raises(DialRefused):
        next_hop(U, trail, location("http://r.test/x"))
    with pytest.raises(UpstreamLied):
        next_hop(U, [URL(f"https://r.test/{n}") for n in range(HOPS_MAX + 1)], location("/next"))


def home(storage: Peer, status: int = 307) -> Peer:
    """A registry with a Bearer token and its blobs in `storage`."""

    def serve(asked: Asked) -> Reply:
        if asked.target.startswith("/token"):
            return Reply(body=b'{"token":"home"}')
        if asked.authorization != "Bearer home":
            return Reply(401, [("WWW-Authenticate", f'Bearer realm="{registry.url()}/token"')])
        return Reply(status, [("Location", f"http://127.0.0.1:{storage.port}{SIGNED}")])

    registry = Peer(serve)
    return registry


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_storage_sees_the_signed_url_and_no_credential(status: int) -> None:
    """Each kind of redirect, for blobs, manifests and their HEADs; S3 would answer 400 to an Authorization (V16)."""

    def serve(asked: Asked) -> Reply:
        assert set(asked.headers) <= {"Host", "User-Agent", "Accept", "Accept-Encoding", "Range"}
        return Reply(400) if asked.authorization else Reply(body=BLOB)

    async with Peer(serve) as storage, home(storage, status) as registry, clients(config(registry.url())) as upstreams:
        assert await receive(upstreams, digest_of(BLOB)) == BLOB
        assert (await upstreams.get_manifest(source(), "1")).body == BLOB
        assert (await upstreams.head_manifest(source(), "1")).size == len(BLOB)
        assert await upstreams.head_blob(source(), digest_of(BLOB)) == len(BLOB)
        assert storage.targets() == [SIGNED] * 4


async def test_cookies_are_neither_kept_nor_sent() -> None:
    """What an upstream sets comes back to nobody."""
    async with Peer(lambda _asked: Reply(headers=[("Set-Cookie", "a=b; Path=/")], body=BLOB)) as registry:
        async with clients(config(registry.url())) as upstreams:
            for _ in range(2):
                await upstreams.get_manifest(source(), "1")
        assert not any("Cookie" in asked.headers for asked in registry.asked)


@pytest.mark.parametrize("status", [400, 401, 403, 410])
async def test_an_expired_url_is_asked_for_once_more(status: int) -> None:
    """The registry is asked for a new URL, once; after that it is an outage of its storage (U15)."""
    replies = iter([Reply(status), Reply(body=BLOB), Reply(status), Reply(status)])
    async with Peer(lambda _asked: next(replies)) as storage, home(storage) as registry:
        async with clients(config(registry.url())) as upstreams:
            assert await receive(upstreams, digest_of(BLOB)) == BLOB
            with pytest.raises(UpstreamUnavailable):
                await receive(upstreams, digest_of(BLOB))
            assert upstreams.endpoints(NAME)[0].breaker.state == "closed"
        assert len(storage.asked) == 4


async def test_storage_that_fails_leaves_the_registrys_circuit_closed() -> None:
    """A broken CDN must not stop the checks of tags; what it lacks is not found."""
    replies = {"reply": Reply(500)}
    async with (
        Peer(lambda _asked: replies["reply"]) as storage,
        home(storage) as registry,
        clients(config(registry.url())) as upstreams,
    ):
        for number in range(8):
            with pytest.raises(UpstreamUnavailable):
                await receive(upstreams, digest_of(b"%d" % number))
        assert upstreams.endpoints(NAME)[0].breaker.state == "closed"
        replies["reply"] = Reply(404)
        with pytest.raises(UpstreamNotFound):
            await receive(upstreams, digest_of(BLOB))


async def test_a_host_behind_a_redirect_gets_a_token_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """lscr.io -> ghcr.io: an anonymous token of ITS realm, for the name in ITS path, used only there (U13)."""
    file = tmp_path_factory.mktemp("secret") / "password"
    file.write_text("secret-word")

    def far(asked: Asked) -> Reply:
        if asked.target.startswith("/token"):
            return Reply(body=b'{"token":"far"}')
        if asked.authorization == "Bearer far":
            return Reply(body=BLOB)
        return Reply(401, [("WWW-Authenticate", f'Bearer realm="{guest.url("far.test")}/token",service="far"')])

    def near(asked: Asked) -> Reply:
        if asked.authorization is None:
            return Reply(401, [("WWW-Authenticate", "Basic realm=x")])
        return Reply(302, [("Location", guest.url("far.test") + "/v2/linuxserver/nginx/manifests/1")])

    table = Resolver(far_test=["127.0.0.1"])
    async with Peer(far) as guest, Peer(near) as registry:
        async with clients(config(registry.url(), credentials={"hub": file}), resolver=table) as upstreams:
            for _ in range(2):
                assert (await upstreams.get_manifest(source("nginx", credentials="hub"), "1")).body == BLOB
        assert guest.targets()[1] == "/token?service=far&scope=repository%3Alinuxserver%2Fnginx%3Apull"
        assert [asked.authorization for asked in guest.asked] == [None, None, "Bearer far", "Bearer far"]
        assert all((asked.authorization or "Basic").startswith("Basic") for asked in registry.asked)


async def test_a_guest_that_wants_a_password_gets_none() -> None:
    """A Basic challenge behind a redirect is a refusal of the storage, not an invitation."""
    basic = Reply(401, [("WWW-Authenticate", "Basic realm=x")])
    async with Peer(lambda _asked: basic) as storage, home(storage) as registry:
        async with clients(config(registry.url())) as upstreams:
            with pytest.raises(UpstreamUnavailable):
                await receive(upstreams, digest_of(BLOB))
        assert not any(asked.authorization for asked in storage.asked)


async def test_another_port_is_another_origin() -> None:
    """The registry's token does not follow to another port of its own host (V15)."""
    async with Peer(lambda _asked: Reply(body=BLOB)) as other, home(other) as registry:
        async with clients(config(registry.url())) as upstreams:
            assert (await upstreams.get_manifest(source(), "1")).body == BLOB
        assert [asked.authorization for asked in other.asked] == [None]


@pytest.mark.parametrize("step", ["", "x"], ids=["a loop", "a long chain"])
async def test_redirects_without_end_are_ended(step: str) -> None:
    """To itself, or always on: a lie after few requests."""
    async with Peer(lambda asked: Reply(307, [("Location", asked.target + step)])) as registry:
        async with clients(config(registry.url())) as upstreams:
            with pytest.raises(UpstreamLied):
                await upstreams.get_manifest(source(), "1")
        assert len(registry.asked) <= HOPS_MAX + 1


async def test_a_long_signed_location_passes() -> None:
    """Headers of up to 64 KiB are read: signed URLs and tokens get long (X05)."""
    long = "/x?sig=" + "a" * 40_000

    def serve(asked: Asked) -> Reply:
        return Reply(body=BLOB) if asked.target == long else Reply(307, [("Location", long)])

    async with Peer(serve) as registry, clients(config(registry.url())) as upstreams:
        assert await receive(upstreams, digest_of(BLOB)) == BLOB
