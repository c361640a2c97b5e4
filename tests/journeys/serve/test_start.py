"""`cistern serve` as a process: its ready line, what it says at start, and why it would not start."""

import asyncio
import json
import os
import socket
from pathlib import Path

from tests.support.cistern import CISTERN, READY, ROOT, CisternProcess, cistern
from tests.support.images import Blob
from tests.support.process import environment
from tests.support.registry import Registry
from tests.support.served import asked, config

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
