"""Threats of reliability.md that have no journey of their own: floods of names, odd listeners, careless defaults."""

import asyncio
import random
import string
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxy.config import parse
from proxy.events import IntegrityFailed
from proxy.oci import OCI_MANIFEST, Digest
from tests.support import script
from tests.support.edge import Serving, serving
from tests.support.images import blob, manifest
from tests.support.proxy import UPSTREAM, Proxy, config_text
from tests.support.registry import Registry
from tests.support.wire import reply

APP = "team/app"
FLOOD = 900


@pytest.fixture
async def server(cache_dir: Path, registry: Registry) -> AsyncIterator[Serving]:
    """A whole server, with its admin address."""
    async with serving(config_text(cache_dir, registry, "hydrate: {image: none}\n"), cache_dir) as running_server:
        yield running_server


def hostile_texts(seed: int, count: int) -> list[str]:
    rng = random.Random(seed)
    letters = string.ascii_letters + string.digits + "._-%/?&=:@"
    return ["".join(rng.choices(letters, k=rng.randrange(1, 40))) for _ in range(count)]


async def test_no_flood_of_names_makes_a_series(server: Serving, registry: Registry) -> None:
    """V37: names, tags, digests, methods, `ns` and user agents that nobody configured add nothing to the metrics."""
    registry.add(APP, "1", manifest(blob(10)))

    async def series() -> int:
        text = (await server.ask("/metrics")).text
        return len({line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")})

    async def ask_all(texts: list[str], tag: str) -> None:
        """One connection, many requests: every kind of thing that a client may name."""
        host, _, port = server.edge.clients.url.removeprefix("http://").rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        for text in texts:
            plain = "".join(c for c in text if c.isalnum()) or "x"
            for method, target in (
                ("GET", f"/v2/{plain}.example/{text}/manifests/{tag}"),
                ("GET", f"/v2/x/manifests/1?ns={text}"),
                ("GET", f"/v2/{UPSTREAM}/{APP}/blobs/{text}"),
                (plain.upper()[:12], f"/v2/{UPSTREAM}/{APP}/manifests/1"),
                ("GET", f"/-/rules/{text}"),
                ("HEAD", f"/{text}"),
            ):
                writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\nUser-Agent: {text}\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                if method != "HEAD" and length:
                    await reader.readexactly(int(length[0].split(b":")[1]))
                if head.startswith(b"HTTP/1.0"):  # no HTTP at all: that connection is over
                    writer.close()
                    reader, writer = await asyncio.open_connection(host, int(port))
        writer.close()

    await server.pull(f"/v2/{UPSTREAM}/{APP}/manifests/1")
    await ask_all(hostile_texts(1, 40), "1")
    before = await series()
    await ask_all(hostile_texts(2, FLOOD // 6), "1")
    assert await series() <= before


CLIMBING = [
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2fetc/passwd",
    "/%2F%2F..%2F..%2Fetc%2Fpasswd",
    "//etc/passwd",
    "/health/../../etc/passwd",
    "/health/rules/..%2f..%2f..%2fetc%2fpasswd",
    "/health/rules/../../../etc/passwd",
    "/api/v1/../../../etc/passwd",
    "/api/v1/images?reference=../../../etc/passwd",
    "/api/v1/explain?reference=file:///etc/passwd",
    "/metrics/../../etc/passwd",
    "/-/rules/..%2f..%2fetc%2fpasswd",
    "/static/..%5c..%5cetc%5cpasswd",
    "/debug",
    "/debug/pprof/",
    "/test",
    "/.git/config",
    "/cistern.yaml",
    "/control.sock",
    "/blobs/",
]


@pytest.mark.parametrize("listener", ["registry", "admin", "control"])
async def test_no_listener_leads_to_a_file(server: Serving, listener: str) -> None:
    """V50: climbing paths, debug and test routes are a 4xx on every listener, control socket included."""
    for path in CLIMBING:
        if listener == "control":
            where = server.edge.control.url.removeprefix("unix:")
            reader, writer = await asyncio.open_unix_connection(where)
        else:
            url = server.edge.clients.url if listener == "registry" else server.edge.admin.url
            host, _, port = url.removeprefix("http://").rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        said = await reader.read()
        writer.close()
        status = int(said.split(b" ")[1])
        assert 400 <= status < 500 or (b"/images?" in path.encode() and status == 200), (path, status)
        assert b"root:" not in said


def test_the_defaults_are_careful() -> None:
    """V25: admin and registry on loopback, each on its own listener; no default password or token anywhere."""
    config = parse("", "none.yaml", {})
    assert config.admin.listen.host == config.registry.listen.host == "127.0.0.1"
    assert config.admin.listen.port != config.registry.listen.port
    assert config.credentials == {}


async def test_a_forwarded_address_is_not_believed(server: Serving, registry: Registry) -> None:
    """V27: the client in the log is the peer of the connection, whatever it says of itself."""
    registry.add(APP, "1", manifest(blob(10)))
    with capture_logs() as lines:
        pulling = await server.start(
            f"/v2/{UPSTREAM}/{APP}/manifests/1",
            **{"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9", "X-Real-IP": "203.0.113.9"},
        )
        await pulling.rest()
    told = [line for line in lines if line["event"] == "request"]
    assert [line["client"] for line in told] == ["127.0.0.1"]
    assert "203.0.113.9" not in str(lines)


async def test_a_pinned_digest_is_checked_against_itself(proxy: Proxy, registry: Registry) -> None:
    """V05: an upstream that answers consistently, but for another manifest than the one asked for, is refused."""
    wanted, other = manifest(blob(10)), manifest(blob(11))
    registry.add(APP, None, wanted)
    lie = reply(200, other.manifest.data, OCI_MANIFEST, **{"Docker-Content-Digest": str(other.digest)})
    registry.script(wanted.digest, script.become(lie), times=1)
    proxy.hear(IntegrityFailed)
    assert (await proxy.ask(f"{APP}/manifests/{wanted.digest}")).status == 502
    assert proxy.stored(other.digest) is None
    assert proxy.stored(wanted.digest) is None
    assert (await proxy.ask(f"{APP}/manifests/{wanted.digest}")).body == wanted.manifest.data


@pytest.mark.parametrize("status", [400, 401, 403, 405, 413])
async def test_only_a_404_is_remembered(proxy: Proxy, registry: Registry, status: int) -> None:
    """V10: no refusal that a hostile request or a bad moment provoked is served to the next client. (An upstream that
    is away or throttles is left alone for a moment: that is a fact about it, told to all alike.)
    """
    image = registry.add(APP, "1", manifest(blob(70_000)))
    for target, body in (("manifests/1", image.manifest.data), (f"blobs/{image.layers[0].digest}", None)):
        registry.script(f"/v2/{APP}/{target}", script.error(status), times=2, methods=("GET", "HEAD"))
        assert (await proxy.ask(f"{APP}/{target}")).status == (404 if status in (401, 403) else 502)
        await proxy.quiet()
        registry.heal()
        answer = await proxy.ask(f"{APP}/{target}")
        assert (answer.status, answer.body) == (200, body or image.layers[0].data)
    await proxy.quiet()


async def test_probing_for_digests_tells_nothing(proxy: Proxy, registry: Registry) -> None:
    """T15: a digest that another repository holds, and one that nobody has ever seen, get the same answer, and each
    costs the upstream two requests at most, however often it is asked for.
    """
    secret = registry.add_blob("team/private", blob(5000))
    await proxy.pull(secret, "team/private")
    await proxy.quiet()
    registry.forget()
    unseen = Digest.of(b"never seen")
    registry.add_blob(APP, blob(1))
    for method in ("HEAD", "GET"):
        told = []
        for digest in (secret.digest, unseen):
            answers = [await proxy.ask(f"{APP}/blobs/{digest}", method=method) for _ in range(5)]
            assert {answer.status for answer in answers} == {404}
            told.append([sorted(answers[0].headers.keys()), answers[0].body.replace(str(digest).encode(), b"")])
        assert told[0] == told[1]
    await proxy.quiet()
    for digest in (secret.digest, unseen):
        assert len(registry.recorded(digest, None)) <= 3
