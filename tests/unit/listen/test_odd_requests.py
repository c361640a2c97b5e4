"""What odd requests cost: nothing is read as another path, method or size than it is."""

import gzip

import pytest
from aiohttp import web

from proxy.server.listen import HEADER_MAX, listen
from tests.support.listening import LOOPBACK, Listen, get, talk


@pytest.mark.parametrize(
    ("target", "path"),
    [
        pytest.param("/v2/a/manifests/b?ns=x", "/v2/a/manifests/b", id="origin form"),
        pytest.param("http://evil.example/v2/a/manifests/b", "/v2/a/manifests/b", id="absolute form"),
        pytest.param("https://evil.example:444/v2/a", "/v2/a", id="absolute form, other scheme"),
        pytest.param("http://u:p@evil.example/v2/a", "/v2/a", id="absolute form with userinfo"),
        pytest.param("/v2/a%2Fb/%2e%2e/x", "/v2/a%2Fb/%2e%2e/x", id="escapes are kept"),
        pytest.param("//v2/a", "//v2/a", id="two slashes"),
        pytest.param("//evil.example/v2/a", "//evil.example/v2/a", id="two slashes and a host"),
        pytest.param("/v2/./a", "/v2/./a", id="dot"),
        pytest.param("/v2/../a", "/v2/../a", id="dots"),
        pytest.param("/v2/a/", "/v2/a/", id="trailing slash"),
    ],
)
@pytest.mark.parametrize("host", ["cache.local", "evil.example", "127.0.0.1:1"])
async def test_neither_host_nor_absolute_form_changes_the_path(
    open_at: Listen, target: str, path: str, host: str
) -> None:
    """The path that is parsed is the target's own, byte for byte, whatever the authority says (V11)."""
    sent = get(target, "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: https", "X-Original-URL: /v2/z", host=host)
    answer = await talk(await open_at(), sent)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.partition(b"\r\n\r\n")[2] == path.encode()


async def test_methods_are_not_overridden_by_headers(open_at: Listen) -> None:
    """X-HTTP-Method-Override means nothing (T09)."""
    assert b"X-Method: GET\r\n" in await talk(await open_at(), get("/v2/", "X-HTTP-Method-Override: DELETE"))


@pytest.mark.parametrize("where", ["field", "target"])
async def test_headers_of_60_kib_are_taken_and_of_more_than_64_are_not(open_at: Listen, where: str) -> None:
    """Long tokens and long ranges pass; beyond 64 KiB the answer is a 400 and the connection ends (X05)."""

    def sized(length: int) -> bytes:
        return get("/v2/", "X: " + "y" * length) if where == "field" else get("/v2/" + "y" * length)

    listener = await open_at()
    assert (await talk(listener, sized(60 << 10))).startswith(b"HTTP/1.1 200")
    answer = await talk(listener, sized(HEADER_MAX + 100))
    assert answer == b"" or answer.startswith(b"HTTP/1.0 400")  # nothing, if the close overtook what was still sent


MALFORMED = [
    pytest.param(b"nonsense\r\n\r\n", id="no request line"),
    pytest.param(b"GET /v2/ HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n", id="no colon"),
    pytest.param(b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", id="NUL"),
    pytest.param(b"GET /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two lengths"),
    pytest.param(
        b"POST /v2/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        id="length and chunked",
    ),
    pytest.param(b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", id="folded"),
    pytest.param(b"\x00\xff\xfe\r\n\r\n", id="bytes"),
]


@pytest.mark.parametrize("request_bytes", MALFORMED)
async def test_a_malformed_request_is_refused_in_silence(
    open_at: Listen, request_bytes: bytes, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """A 400, the connection closed, what follows not executed, and not one line in any log (V45, T08)."""
    caplog.set_level(0)
    listener = await open_at()
    for _ in range(20):
        answer = await talk(listener, request_bytes + get("/v2/smuggled"))
        assert answer.startswith(b"HTTP/1.0 400")
        assert b"smuggled" not in answer.partition(b"\r\n\r\n")[2]
        assert b"Traceback" not in answer
    assert [record for record in caplog.records if record.name != "asyncio"] == []
    assert "".join(capfd.readouterr()) == ""


async def test_no_requests_body_is_inflated() -> None:
    """A body that says it is gzip is the bytes that were sent: a bomb is never opened (V35, V36)."""

    async def count(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=str(len(await request.content.read())).encode())

    bomb = gzip.compress(bytes(10 << 20))
    listener = await listen(LOOPBACK, count)
    try:
        sent = get("/v2/", "Content-Encoding: gzip", f"Content-Length: {len(bomb)}").replace(b"GET", b"POST", 1)
        answer = await talk(listener, sent + bomb)
        assert answer.endswith(b"\r\n\r\n" + str(len(bomb)).encode())
    finally:
        await listener.stop_accepting()
        await listener.close()
