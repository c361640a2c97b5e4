"""The container image: built without a network from a base made here, pulled through Cistern, and started.

The base is Debian's own, by debootstrap from the mirror this machine installs from. buildah works in a storage of the
test's own, so that nothing is left on the machine.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.house.source import ROOT
from tests.support.cistern import CisternProcess
from tests.support.origin import Origin
from tests.support.process import Server, run

pytestmark = [pytest.mark.long, pytest.mark.real, pytest.mark.timeout(900), pytest.mark.xdist_group("image")]
CODENAME: Final = "bookworm"
USER: Final = "65532"


class Buildah:
    """buildah with a storage of its own under `home`; chroot isolation, which needs no privileges beyond root."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def command(self, *arguments: str | Path) -> list[str | Path]:
        place: list[str | Path] = ["--root", self.home / "root", "--runroot", self.home / "run"]
        return ["buildah", *place, "--storage-driver", "vfs", *arguments]

    async def __call__(self, *arguments: str | Path, alone: bool = False) -> str:
        """Its output; `alone` takes every network but its own empty one away."""
        apart = ["unshare", "--net"] if alone else []
        outcome = await run(*apart, *self.command(*arguments), timeout_s=600.0)
        return outcome.check().output.strip()


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder with a short name, for sockets, with room for a few hundred MB."""
    folder = Path(tempfile.mkdtemp(prefix="ci-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def buildah(home: Path) -> Buildah:
    """A buildah that has one image: `localhost/base`, Debian with Python."""
    made = Buildah(home / "build")
    sources = await run(
        "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian",
        f"Codename: {CODENAME}",
    )  # fmt: skip
    mirrors = sources.check().output.split()
    assert mirrors, f"this machine's package sources have no {CODENAME}, which the base image is made of"
    base = home / "base"
    bootstrap = ("debootstrap", "--variant=minbase", "--include=python3,python3-venv", CODENAME, base, mirrors[0])
    (await run(*bootstrap, timeout_s=600.0)).check()
    container = await made("from", "scratch")
    await made("add", "--quiet", container, base, "/")
    await made("commit", "--quiet", "--rm", container, "localhost/base")
    return made


@pytest.fixture
async def origin(home: Path) -> AsyncIterator[Origin]:
    """The registry that the image is pushed to."""
    started = Origin(home / "origin")
    started.start()
    yield started
    started.stop()


@pytest.fixture
async def cistern(home: Path, origin: Origin) -> AsyncIterator[CisternProcess]:
    """A Cistern in front of the origin, from this checkout."""
    upstreams = {"origin.test": {"endpoints": [{"url": origin.url}], "plain_http": True}}
    config = {"registry": {"default_upstream": "none"}, "cache": {"keep_free": "0%"}, "upstreams": upstreams}
    async with CisternProcess(home / "cistern", config) as started:
        yield started


async def test_the_image_is_built_pulled_through_cistern_and_serves(
    home: Path, buildah: Buildah, origin: Origin, cistern: CisternProcess
) -> None:
    """Built without a network, pushed, pulled through Cistern whole, it serves as a plain user and ends when asked."""
    (await run("make", "wheels", cwd=ROOT, timeout_s=600.0)).check()
    await buildah(
        "bud", "--isolation", "chroot", "--format", "docker", "--build-arg", "BASE=localhost/base", "--pull=false",
        "--tag", "localhost/cistern", ROOT, alone=True,
    )  # fmt: skip
    plain = "--tls-verify=false"
    await buildah("push", "--quiet", plain, "localhost/cistern", f"docker://{origin.address}/corp/cistern:1")
    pushed = await manifest_at(f"{origin.address}/corp/cistern:1")

    puller = Buildah(home / "pull")
    container = await puller("from", "--quiet", plain, f"docker://{cistern.netloc}/origin.test/corp/cistern:1")
    assert await manifest_at(f"{cistern.netloc}/origin.test/corp/cistern:1") == pushed
    image = json.loads(await puller("inspect", container))["Docker"]["config"]
    await check_running(puller, container, image)


async def manifest_at(reference: str) -> dict[str, Any]:
    raw = await run("skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{reference}")
    found: dict[str, Any] = json.loads(raw.check().output)
    return found


async def check_running(puller: Buildah, container: str, image: dict[str, Any]) -> None:
    """Start what the image says it starts, alone in a network namespace, so that its own default port is free."""
    assert (image["Entrypoint"], image["Cmd"], image["User"]) == (["cistern"], ["serve"], f"{USER}:{USER}")
    inside = puller.command("run", "--isolation", "chroot", container, "--", *image["Entrypoint"], *image["Cmd"])
    script = 'ip link set lo up && exec "$@"'
    server = Server(["unshare", "--net", "sh", "-c", script, "sh", *inside])
    try:
        ready = await asyncio.to_thread(server.wait_for, lambda line: line.startswith("cistern ready"), timeout_s=60.0)
        assert "registry=http://0.0.0.0:5090 admin=http://127.0.0.1:5091" in ready
        pid = leaf_of(server.pid)
        assert user_of(pid) == USER

        kind, *check = image["Healthcheck"]["Test"]
        assert kind == "CMD"
        entered = ["nsenter", f"--net=/proc/{pid}/ns/net"]
        probe = puller.command("run", "--isolation", "chroot", container, "--", *check)
        (await run(*entered, *probe)).check()

        os.kill(pid, signal.SIGTERM)
        assert await asyncio.to_thread(server.wait, 60.0) == 0
        assert not (await run(*puller.command("run", "--isolation", "chroot", container, "--", *check))).succeeded
    finally:
        server.stop()


def leaf_of(pid: int) -> int:
    """The process at the end of a chain of only children: Cistern itself, behind buildah's."""
    # A child belongs to the thread that made it.
    children = [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return leaf_of(int(children[0])) if children else pid


def user_of(pid: int) -> str:
    """The user a process runs as, a number as text."""
    found = re.search(r"^Uid:\t(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]
