"""`cistern serve` as a process: its ready line, its end by signals with streams running, and why it would not start."""

import asyncio
import json
import os
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.cistern import CISTERN, READY, ROOT, CisternProcess, cistern, stored
from tests.support.images import Blob
from tests.support.process import environment
from tests.support.pulling import Pulling
from tests.support.registry import Registry
from tests.support.tls import Authority

SIZE = 300_000


def config(upstream: Registry, **keys: Any) -> dict[str, Any]:
    """A config with one upstream, `hub.test`; `keys` are further sections."""
    hub = {"endpoints": [{"url": upstream.url}], "plain_http": True, "proxy": "none"}
    return {"upstreams": {"hub.test": hub}, **keys}


@pytest.fixture
def served(short_tmp: Path, registry: Registry) -> CisternProcess:
    """A server in front of the scripted registry; not started."""
    return CisternProcess(short_tmp / "cistern", config(registry))


@pytest.fixture
def layer(registry: Registry) -> Blob:
    return registry.add("team/app", "1", images.manifest(images.blob(SIZE))).layers[0]


async def streaming(served: CisternProcess, registry: Registry, layer: Blob) -> tuple[Pulling, Any]:
    """A pull that has got its headers and stands at a gate of the upstream."""
    gate = registry.hold(layer.digest, after_bytes=SIZE // 2)
    pulling = await Pulling.start(served.netloc, f"/v2/hub.test/team/app/blobs/{layer.digest}")
    await gate.reached()
    assert await pulling.head() == 200
    return pulling, gate


async def asked(url: str, path: str) -> Pulling:
    pulling = await Pulling.start(url.removeprefix("http://"), path)
    await pulling.head()
    return pulling


async def told(served: CisternProcess, event: str) -> dict[str, Any]:
    """Wait for a line of the log."""
    return await served.logged(lambda line: line["event"] == event)


async def draining(served: CisternProcess, number: signal.Signals) -> None:
    """Send a signal, and wait until it drains."""
    assert served.pid is not None
    os.kill(served.pid, number)
    await served.logged(lambda line: line["event"] == "draining")


# The ready line


async def test_the_ready_line_is_all_of_standard_output(short_tmp: Path) -> None:
    """One line, flushed, with real addresses for port 0; logs go to standard error."""
    process = await asyncio.create_subprocess_exec(
        *CISTERN, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cache-dir", short_tmp / "cache",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment({"PYTHONPATH": str(ROOT)}),
    )  # fmt: skip
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    ready = READY.fullmatch(line.rstrip("\n"))
    assert ready is not None
    assert ready["control"] == str(short_tmp / "cache" / "control.sock")
    for address, path in ((ready["registry"], "/v2/"), (ready["admin"], "/readyz")):
        answer = await asked(address, path)
        assert answer.status == 200
        await answer.leave()
    process.terminate()
    rest, logged = await process.communicate()
    assert (process.returncode, rest) == (0, b"")
    assert [json.loads(line)["event"] for line in logged.splitlines()][-1] == "stopped"


async def test_a_stdout_that_nobody_reads_stops_nothing(short_tmp: Path) -> None:
    """A supervisor that closed the pipe still gets a server."""
    read, write = os.pipe()
    os.close(read)
    process = await asyncio.create_subprocess_exec(
        *CISTERN, "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cache-dir", short_tmp / "cache",
        stdout=write,
        stderr=asyncio.subprocess.PIPE,
        env=environment({"PYTHONPATH": str(ROOT)}),
    )  # fmt: skip
    os.close(write)
    assert process.stderr is not None
    while json.loads(await asyncio.wait_for(process.stderr.readline(), 20))["event"] != "ready":
        continue
    process.terminate()
    await process.communicate()
    assert process.returncode == 0


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_running_stream_ends_whole(
    served: CisternProcess, registry: Registry, layer: Blob, number: signal.Signals
) -> None:
    """Readiness fails first, nobody new gets in, who is inside gets all bytes, and the exit code is 0."""
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        kept = await asked(served.registry_url, "/v2/")
        await kept.read(2)
        await draining(served, number)
        ready = await asked(served.admin_url, "/readyz")
        assert (ready.status, json.loads(await ready.rest())) == (503, {"status": "draining"})
        with pytest.raises(ConnectionRefusedError):
            await Pulling.start(served.netloc, "/v2/")
        kept.writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
        kept.status = 0
        assert await kept.head() == 200
        assert kept.headers["Connection"] == "close"
        await kept.leave()
        gate.open()
        assert await pulling.rest() == layer.data
        assert await served.ended() == 0
    assert not served.control.exists()


async def test_twenty_streams_end_whole_and_five_hydrations_are_parked(short_tmp: Path, registry: Registry) -> None:
    """SIGTERM in the middle of all (F27): every stream is whole and the exit code 0; what is left on disk is what a
    restart goes on from, and it does, to the end.
    """
    layers = [registry.add_blob("team/app", images.blob(SIZE, seed=n)) for n in range(20)]
    pictures = [
        registry.add(f"team/{n}", "1", images.manifest(images.blob(500, seed=n), images.blob(SIZE, seed=99 + n)))
        for n in range(5)
    ]
    served = CisternProcess(short_tmp / "cistern", config(registry, hydrate={"concurrency": 5}))
    async with served:
        gates = [registry.hold(blob.digest, after_bytes=SIZE // 2) for blob in layers]
        parked = [registry.hold(picture.layers[1].digest, after_bytes=SIZE // 2) for picture in pictures]
        for number, picture in enumerate(pictures):
            for path in (f"manifests/{picture.digest}", f"blobs/{picture.layers[0].digest}"):
                pulled = await asked(served.registry_url, f"/v2/hub.test/team/{number}/{path}")
                await pulled.rest()
        for gate in parked:  # first: beside clients none would begin
            await gate.reached()
        pulls = [await asked(served.registry_url, f"/v2/hub.test/team/app/blobs/{blob.digest}") for blob in layers]
        for gate in gates:
            await gate.reached()
        await draining(served, signal.SIGTERM)
        for path, status in (("/readyz", 503), ("/livez", 200)):
            probe = await asked(served.admin_url, path)
            assert probe.status == status
            await probe.leave()
        for gate in gates:
            gate.open()
        assert [await pulling.rest() for pulling in pulls] == [blob.data for blob in layers]
        assert await asyncio.wait_for(served.ended(), 20) == 0
        left = {path.suffix for path in (served.cache_dir / "parts").iterdir()}
        assert left <= {".part", ".map"}
        assert {blob.digest for blob in layers} <= stored(served.cache_dir)
        registry.heal()
        await served.start()
        done: set[str] = set()

        def all_are_done(line: dict[str, Any]) -> bool:
            done.update({line["manifest"]} if line["event"] == "hydration ended" and line["result"] == "done" else ())
            return len(done) == len(pictures)

        await served.logged(all_are_done)
        assert {picture.layers[1].digest for picture in pictures} <= stored(served.cache_dir)


async def test_what_a_drain_has_kept_is_whole(served: CisternProcess, registry: Registry, layer: Blob) -> None:
    """The blob that streamed while the server drained is in the store when it has ended."""
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        await draining(served, signal.SIGTERM)
        gate.open()
        await pulling.rest()
        assert await served.ended() == 0
        await served.start()
        again = await asked(served.registry_url, f"/v2/hub.test/team/app/blobs/{layer.digest}")
        assert await again.rest() == layer.data
        assert "; hit" in again.headers["Cache-Status"]
    assert registry.requests_for(layer.digest) == 1


async def test_a_second_signal_ends_at_once(served: CisternProcess, registry: Registry, layer: Blob) -> None:
    """A stream that would hold it for 25 s is cut; what it had is no visible blob."""
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        await draining(served, signal.SIGTERM)
        assert await asyncio.wait_for(served.terminate(), 5) == 1
        with pytest.raises(ConnectionError):
            await pulling.rest()
        gate.open()
        assert layer.digest not in stored(served.cache_dir)
        assert any(line["event"] == "ended at once by a second signal" for line in served.log_lines())
        await served.start()  # the lock and the old socket are in nobody's way
        ready = await asked(served.registry_url, "/-/ready")
        assert (ready.status, await ready.rest()) == (200, b"")


async def test_a_drain_that_runs_out_cuts_what_is_left(short_tmp: Path, registry: Registry, layer: Blob) -> None:
    """Past `drain` a stream is cut, never ended as if it were whole; the log says so, and the exit code is 0."""
    served = CisternProcess(short_tmp / "cistern", config(registry, registry={"drain": "300ms"}))
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        assert await asyncio.wait_for(served.terminate(), 10) == 0
        with pytest.raises(ConnectionError):
            await pulling.rest()
        gate.open()
    assert any(line["event"].startswith("drain ran out") for line in served.log_lines())


async def test_after_a_kill_the_old_socket_is_replaced(served: CisternProcess) -> None:
    """SIGKILL leaves the control socket's file; the next start takes its place."""
    async with served:
        await served.kill()
        assert served.control.exists()
        await served.start()
        (await served.command("status")).check()


# Reloading


async def test_sighup_and_a_changed_file_reload(served: CisternProcess, registry: Registry, layer: Blob) -> None:
    """A signal at once, a file by itself; a bad one is told line by line, and the server goes on."""
    manifest = "/v2/hub.test/team/app/manifests/1"
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        served.configure(config(registry, rules=[{"name": "no", "upstream": "hub.test/*", "deny": True}]))
        served.reload()
        await served.logged(lambda line: line["event"] == "config taken over")
        denied = await asked(served.registry_url, manifest)
        assert (denied.status, json.loads(await denied.rest())["errors"][0]["code"]) == (403, "DENIED")
        served.configure("upstreams: {hub.test: {}}\nregsitry: {}\nrules: 7\n")
        problem = await served.logged(lambda line: line["event"] == "config refused, the old one stays")
        assert problem["problem"] == f"{served.config_path}:2: regsitry: unknown key, did you mean registry?"
        health = await asked(served.admin_url, "/health")
        assert len(json.loads(await health.rest())["config"]["problems"]) == 2
        assert "2: regsitry: unknown key" in (await served.command("status")).check().output
        gate.open()
        assert await pulling.rest() == layer.data
        served.configure(config(registry))
        served.reload()
        await served.logged(lambda line: line["event"] == "config taken over" and line["rules"] == 0)
        allowed = await asked(served.registry_url, manifest)
        assert (allowed.status, len(await allowed.rest()) > 0) == (200, True)


async def test_a_renewed_certificate_is_shown_without_a_restart(
    short_tmp: Path, registry: Registry, ca: Authority
) -> None:
    """Replaced as cert-manager does, and seen by itself; half of the pair in between changes nothing and is told."""
    (short_tmp / "new").mkdir()
    chain, key = ca.files(short_tmp, "localhost")
    other = Authority(short_tmp)
    tls = {"certificate": str(chain), "key": str(key)}
    served = CisternProcess(short_tmp / "cistern", config(registry, registry={"tls": tls}))

    async def shown(trusted: Authority) -> None:
        """Shake hands; raises SSLCertVerificationError if another authority's certificate is shown."""
        port = int(served.registry_url.rpartition(":")[2])
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trusted.client(), server_hostname="localhost"
        )  # fmt: skip
        writer.transport.abort()

    async with served:
        await shown(ca)
        new_chain, new_key = other.files(short_tmp / "new", "localhost")
        os.replace(new_chain, chain)
        problem = await told(served, "config refused, the old one stays")
        assert problem["problem"].startswith(f"registry.tls: {chain} and {key} do not serve")
        await shown(ca)
        os.replace(new_key, key)
        await told(served, "config taken over")
        await shown(other)
        with pytest.raises(ssl.SSLCertVerificationError):
            await shown(ca)


async def test_a_reload_while_it_drains_disturbs_nobody(
    served: CisternProcess, registry: Registry, layer: Blob
) -> None:
    """SIGHUP, good or bad, neither ends the process nor its streams."""
    async with served:
        pulling, gate = await streaming(served, registry, layer)
        await draining(served, signal.SIGTERM)
        for text, said in ((config(registry), "config taken over"), ("nonsense", "config refused, the old one stays")):
            served.configure(text)
            served.reload()
            await told(served, said)
        gate.open()
        assert await pulling.rest() == layer.data
        assert await served.ended() == 0


# Refusing to start


async def test_a_taken_port_is_one_line(short_tmp: Path) -> None:
    """Exit code 1, and one line that names the key and the address; no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for flag, key in (("--listen", "registry.listen"), ("--admin", "admin.listen")):
            others = ("--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cache-dir", short_tmp / "cache")
            ended = await cistern("serve", *others, flag, address)
            assert ended.code == 1
            assert ended.output.splitlines()[-1:] == [
                f"cistern: {key}: cannot listen on {address}: Address already in use"
            ]


async def test_a_cache_directory_in_use_names_its_owner(served: CisternProcess) -> None:
    """The second server refuses, naming the first one's pid."""
    async with served:
        ended = await cistern(
            "serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--cache-dir", served.cache_dir
        )
        [line] = ended.output.splitlines()
        assert ended.code == 1
        assert f"pid {served.pid}" in line


async def test_certificates_that_do_not_serve_are_one_line(short_tmp: Path) -> None:
    """A missing or broken certificate is named, with its key."""
    (short_tmp / "tls.crt").write_text("not a certificate")
    (short_tmp / "cistern.yaml").write_text(
        f"registry: {{tls: {{certificate: {short_tmp}/tls.crt, key: {short_tmp}/tls.crt}}}}\n"
    )
    ended = await cistern(
        "serve", "--config", short_tmp / "cistern.yaml", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0",
        "--cache-dir", short_tmp / "cache",
    )  # fmt: skip
    assert ended.code == 2
    assert ended.output.splitlines()[-1].startswith(f"registry.tls: {short_tmp}/tls.crt and ")


# What it says at start


async def test_private_content_beyond_loopback_is_said_once(short_tmp: Path, registry: Registry) -> None:
    """Until access control is built: who listens beyond loopback with credentials is told, once, at start."""
    private = config(
        registry,
        credentials={"team": {"username": "me", "password": {"env": "TEAM"}}},
        rules=[{"name": "corp", "upstream": "hub.test/corp/*", "credentials": "team"}],
    )
    private["upstreams"]["hub.test"]["allow_insecure_credentials"] = True
    for address, times in (("0.0.0.0:0", 1), ("127.0.0.1:0", 0)):
        home = short_tmp / address.partition(":")[0]
        async with CisternProcess(home, private, args=["--listen", address], env={"TEAM": "x"}) as served:
            told = [line["about"] for line in served.log_lines() if line["event"] == "caution"]
            assert len([line for line in told if "whoever reaches" in line and "rule corp" in line]) == times


async def test_an_image_pulled_is_listed_by_another_command(
    served: CisternProcess, registry: Registry, layer: Blob
) -> None:
    """The commands talk to the server over its control socket, with nothing but the cache directory to go by."""
    async with served:
        manifest = await asked(served.registry_url, "/v2/hub.test/team/app/manifests/1")
        await manifest.rest()
        pulled = await asked(served.registry_url, f"/v2/hub.test/team/app/blobs/{layer.digest}")
        await pulled.rest()
        await served.logged(lambda line: line["event"] == "hydration ended")
        image = json.loads((await served.command("images", "--json")).check().output)[0]
        assert (image["complete"], image["tags"]) == (True, ["1"])
        (await served.command("evict", "hub.test/team/app:1")).check()
        assert json.loads((await served.command("images", "--json")).check().output) == []
