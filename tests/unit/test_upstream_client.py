"""The client against servers that answer as registries do, and as they should not: manifests, lists, limits, roads."""

import asyncio
import gzip

import pytest

from proxy.errors import (
    UpstreamDenied,
    UpstreamFault,
    UpstreamLied,
    UpstreamNotFound,
    UpstreamThrottled,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from proxy.oci import ACCEPT, OCI_INDEX
from proxy.tasks import Tasks
from tests.unit.upstream_peers import NAME, Asked, Calls, Hand, Peer, Reply, clients, config, digest_of, source

MANIFEST = b'{"schemaVersion":2,"manifests":[]}'
TYPED = [("Content-Type", OCI_INDEX), ("Docker-Content-Digest", str(digest_of(MANIFEST)))]
FAST = {"connect": "300ms", "headers": "300ms", "stall": "300ms"}


def raw(*lines: str, body: bytes = b"", end: str = "\r\n") -> Reply:
    return Reply(raw=(end.join(("HTTP/1.1 200 OK", *lines)) + end + end).encode("latin-1") + body)


async def test_a_manifest_and_its_head() -> None:
    """The full Accept list is asked in identity encoding, and all facts come back; no other header goes out."""
    async with Peer(lambda _asked: Reply(headers=TYPED, body=MANIFEST)) as registry:
        async with clients(config(registry.url())) as upstreams:
            got = await upstreams.get_manifest(source(), "latest")
            head = await upstreams.head_manifest(source(), digest_of(MANIFEST))
        assert (got.body, got.media_type, got.digest, got.origin) == (
            MANIFEST,
            OCI_INDEX,
            digest_of(MANIFEST),
            registry.url(),
        )
        assert (head.size, head.media_type, head.digest) == (len(MANIFEST), OCI_INDEX, digest_of(MANIFEST))
        assert registry.targets() == [
            "/v2/library/nginx/manifests/latest",
            f"/v2/library/nginx/manifests/{digest_of(MANIFEST)}",
        ]
        for asked in registry.asked:
            assert set(asked.headers) == {"Host", "User-Agent", "Accept-Encoding", "Accept"}
            assert (asked.headers["Accept"], asked.headers["Accept-Encoding"]) == (ACCEPT, "identity")
            assert asked.headers["User-Agent"].startswith("cistern/")
        assert registry.connections == 1


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("/artifactory/api/docker/hub", "/artifactory/api/docker/hub/v2/library/nginx/manifests/1"),
        ("/v2/hub-proxy", "/v2/hub-proxy/library/nginx/manifests/1"),
        ("/", "/v2/library/nginx/manifests/1"),
    ],
)
async def test_an_endpoint_may_have_a_base_path(base: str, expected: str) -> None:
    """Artifactory, Nexus, GitLab: the path stands before /v2/, or holds it already (U25)."""
    async with Peer(lambda _asked: Reply(body=MANIFEST)) as registry:
        async with clients(config(registry.url() + base)) as upstreams:
            await upstreams.get_manifest(source(), "1")
        assert registry.targets() == [expected]


@pytest.mark.parametrize("status", [404, 405, 501, 401, 403])
async def test_head_falls_back_to_get(status: int) -> None:
    """Where HEAD does not work the body tells; 405 is remembered, so the next check is one request (U18)."""

    def serve(asked: Asked) -> Reply:
        return Reply(status) if asked.method == "HEAD" else Reply(headers=TYPED[:1], body=MANIFEST)

    async with Peer(serve) as registry, clients(config(registry.url())) as upstreams:
        for _ in range(2):
            head = await upstreams.head_manifest(source(), "1")
            assert (head.digest, head.size) == (digest_of(MANIFEST), len(MANIFEST))
        heads = [asked.method for asked in registry.asked].count("HEAD")
        assert heads == (1 if status in (405, 501) else 2)


async def test_a_trusted_head_is_believed() -> None:
    """Once HEAD has worked, its 404 is a 404 and costs no GET (U22); a HEAD may tell no digest (U19)."""
    replies = iter([Reply(headers=TYPED[:1], body=MANIFEST), Reply(404)])
    async with Peer(lambda _asked: next(replies)) as registry, clients(config(registry.url())) as upstreams:
        assert (await upstreams.head_manifest(source(), "1")).digest is None
        with pytest.raises(UpstreamNotFound):
            await upstreams.head_manifest(source(), "1")
        assert [asked.method for asked in registry.asked] == ["HEAD", "HEAD"]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        pytest.param(
            Reply(headers=[("Content-Type", "text/html")], body=b"<html>log in</html>"), UpstreamLied, id="html"
        ),
        pytest.param(Reply(body=b"x" * 5000), UpstreamLied, id="larger than the cap"),
        pytest.param(Reply(body=b"x" * 5000, length=False), UpstreamLied, id="endless"),
        pytest.param(Reply(body=b""), UpstreamLied, id="empty"),
        pytest.param(Reply(headers=[("Content-Encoding", "br")], body=b"x"), UpstreamLied, id="brotli"),
        pytest.param(
            Reply(headers=[("Content-Encoding", "gzip")], body=gzip.compress(b"0" * 100_000)),
            UpstreamLied,
            id="gzip bomb",
        ),
        pytest.param(raw("Content-Length: 2", "Content-Length: 3", body=b"{}"), UpstreamLied, id="two lengths"),
        pytest.param(
            raw("Content-Length: 2", "Content-Length: 2", body=b"{}"), UpstreamLied, id="a length twice (X11)"
        ),
        pytest.param(raw("Content-Length: -1", body=b"{}"), UpstreamLied, id="a negative length"),
        pytest.param(
            raw("Content-Type: a/b", "Content-Type: c/d", "Content-Length: 2", body=b"{}"), UpstreamLied, id="types"
        ),
        pytest.param(raw("X: " + "a" * 70_000, "Content-Length: 2", body=b"{}"), UpstreamLied, id="a huge header"),
        pytest.param(Reply(raw=b"SSH-2.0-OpenSSH_9.2\r\n"), UpstreamLied, id="not HTTP"),
        pytest.param(Reply(raw=b""), UpstreamUnavailable, id="closed at once"),
        pytest.param(Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Le"), UpstreamUnavailable, id="closed in the headers"),
        pytest.param(Reply(body=MANIFEST, cut_after=5), UpstreamUnavailable, id="cut in the body"),
        pytest.param(Reply(500), UpstreamUnavailable, id="500"),
        pytest.param(Reply(204), UpstreamLied, id="204"),
        pytest.param(Reply(401), UpstreamDenied, id="401 with no challenge anywhere"),
        pytest.param(Reply(429, [("Retry-After", "77")]), UpstreamThrottled, id="429"),
    ],
)
async def test_what_no_honest_registry_says(reply: Reply, error: type[UpstreamFault]) -> None:
    """Each a clear error of its own kind, none a body; and the next honest answer is taken (after a 429: in time)."""
    states, hand = {"reply": reply}, Hand()
    async with (
        Peer(lambda _asked: states["reply"]) as registry,
        clients(config(registry.url(), limits={"max_manifest": "4000B"}), monotonic=hand) as upstreams,
    ):
        with pytest.raises(error) as failed:
            await upstreams.get_manifest(source(), "1")
        assert failed.value.upstream == NAME
        if isinstance(failed.value, UpstreamThrottled):
            assert failed.value.retry_after_s == 77.0
            hand.now += 77
        states["reply"] = Reply(headers=TYPED, body=MANIFEST)
        assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST


async def test_a_gzip_manifest_is_inflated() -> None:
    """Some send gzip unasked: what is handed on is the manifest itself (V35)."""
    reply = Reply(headers=[*TYPED, ("Content-Encoding", "gzip")], body=gzip.compress(MANIFEST))
    async with Peer(lambda _asked: reply) as registry, clients(config(registry.url())) as upstreams:
        assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST
        assert (await upstreams.head_manifest(source(), "1")).size is None


async def test_line_feeds_alone_end_headers_too() -> None:
    """Docker Hub's abuse limit answers with bare line feeds (U21)."""
    reply = Reply(raw=b"HTTP/1.1 429 Too Many Requests\nRetry-After: 60\nContent-Length: 3\n\nnow")
    async with Peer(lambda _asked: reply) as registry, clients(config(registry.url())) as upstreams:
        with pytest.raises(UpstreamThrottled) as throttled:
            await upstreams.get_manifest(source(), "1")
        assert throttled.value.retry_after_s == 60.0


async def test_lists_and_their_next_page() -> None:
    """tags/list and referrers pass the query on, and give back body, next query and applied filters."""
    link = '</v2/library/nginx/tags/list?last=b&n=2>; rel="next"'

    def serve(asked: Asked) -> Reply:
        if "/tags/list" in asked.target:
            return Reply(headers=[("Link", link)], body=b'{"tags":["a","b"]}')
        return Reply(headers=[("OCI-Filters-Applied", "artifactType"), ("Content-Type", OCI_INDEX)], body=MANIFEST)

    async with Peer(serve) as registry, clients(config(registry.url())) as upstreams:
        tags = await upstreams.tags(source(), {"n": "2", "last": "a&b"})
        referrers = await upstreams.referrers(source(), digest_of(MANIFEST), {"artifactType": "x/y"})
        assert registry.targets() == [
            "/v2/library/nginx/tags/list?n=2&last=a%26b",
            f"/v2/library/nginx/referrers/{digest_of(MANIFEST)}?artifactType=x/y",
        ]
    assert (tags.body, tags.next_query) == (b'{"tags":["a","b"]}', {"last": "b", "n": "2"})
    assert (referrers.body, referrers.next_query, referrers.filters_applied) == (MANIFEST, None, "artifactType")


async def test_headers_may_take_longer_than_the_dial_but_not_for_ever() -> None:
    """The time to connect ends with the connection; then the time for headers counts, trickled bytes or none."""
    gate = asyncio.Event()

    async def late(_asked: Asked) -> Reply:
        asyncio.get_running_loop().call_later(0.15, gate.set)
        await gate.wait()
        return Reply(body=MANIFEST)

    async def never(_asked: Asked) -> Reply:
        await asyncio.Event().wait()
        return Reply()

    async with Peer(late) as registry:
        async with clients(config(registry.url(), timeouts={"connect": "100ms", "headers": "5s"})) as upstreams:
            assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST
            registry.answer = never
        async with clients(config(registry.url(), timeouts={"connect": "5s", "headers": "100ms"})) as upstreams:
            with pytest.raises(UpstreamTimeout):
                await upstreams.get_manifest(source(), "1")


async def test_another_endpoint_is_tried_for_outages_only() -> None:
    """In order, before the first byte; a 404 of the first is the answer; a pin never leaves its endpoint."""
    async with (
        Peer(lambda _asked: Reply(503)) as first,
        Peer(lambda _asked: Reply(body=MANIFEST)) as second,
        clients(config(first.url(), second.url())) as upstreams,
    ):
        assert (await upstreams.get_manifest(source(), "1")).origin == second.url()
        with pytest.raises(UpstreamUnavailable):
            await upstreams.get_manifest(source(endpoint=first.url()), "1")
        assert (await upstreams.get_manifest(source(endpoint=second.url() + "/"), "1")).origin == second.url()
        first.answer = lambda _asked: Reply(404)
        with pytest.raises(UpstreamNotFound):
            await upstreams.get_manifest(source(), "1")


@pytest.mark.parametrize("status", [401, 403, 404, 429])
async def test_denials_limits_and_lies_open_no_circuit(status: int) -> None:
    """They show that the upstream lives; 401 on /v2/ is healthy."""
    async with (
        Peer(lambda _asked: Reply(status)) as registry,
        clients(config(registry.url(), breaker={"failures": 1})) as upstreams,
    ):
        for tag in "123":
            with pytest.raises(UpstreamFault):
                await upstreams.get_manifest(source(), tag)
        assert await upstreams.ping(NAME) == {registry.url(): status}
        registry.answer = lambda _asked: Reply(raw=b"junk\r\n\r\n")
        for tag in "456" if status != 429 else "":
            with pytest.raises(UpstreamLied):
                await upstreams.get_manifest(source(), tag)
        assert not upstreams.endpoints(NAME)[0].breaker.is_open


async def test_leaving_clients_open_no_circuit_and_leave_no_slot_taken() -> None:
    """Cancelled in mid-request, ten times with a breaker of one."""
    reached = asyncio.Event()

    async def hold(_asked: Asked) -> Reply:
        reached.set()
        await asyncio.Event().wait()
        return Reply()

    async with Peer(hold) as registry, clients(config(registry.url(), breaker={"failures": 1})) as upstreams:
        endpoint = upstreams.endpoints(NAME)[0]
        for _ in range(10):
            async with Tasks() as tasks:
                reached.clear()
                tasks.start(upstreams.get_manifest(source(), "1"), name="leaver")
                await reached.wait()
        assert (endpoint.breaker.state, endpoint.slots.used) == ("closed", 0)


async def test_a_dead_kept_connection_is_replaced_once() -> None:
    """A connection that the upstream closed while idle costs no failure."""

    def serve(asked: Asked) -> Reply:
        is_second = asked.connection == 1 and len(registry.asked) == 2
        return Reply(raw=b"") if is_second else Reply(body=MANIFEST)

    async with Peer(serve) as registry, clients(config(registry.url())) as upstreams:
        for _ in range(2):
            assert (await upstreams.get_manifest(source(), "1")).body == MANIFEST
        assert (registry.connections, len(registry.asked)) == (2, 3)


async def test_every_exchange_is_told_once() -> None:
    """Kind, outcome, bytes and the remaining quota, of successes, redirects and failures."""
    replies = iter(
        [Reply(307, [("Location", "/v2/x")]), Reply(headers=[("RateLimit-Remaining", "98;w=21600")], body=MANIFEST)]
    )
    calls = Calls()
    async with (
        Peer(lambda _asked: next(replies, Reply(raw=b""))) as registry,
        clients(config(registry.url()), on_request=calls) as upstreams,
    ):
        await upstreams.get_manifest(source(), "1")
        with pytest.raises(UpstreamUnavailable):
            await upstreams.get_manifest(source(), "1")
    failed = ("manifest", "upstream_unavailable")
    assert calls.outcomes() == [("manifest", "307"), ("manifest", "200"), failed, failed]
    assert (calls[1].received_bytes, calls[1].quota_remaining, calls[1].upstream) == (len(MANIFEST), 98, NAME)
    assert {call.endpoint.rpartition(":")[0] for call in calls} == {"http://127.0.0.1"}
