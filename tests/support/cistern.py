"""Cistern itself as a process: started, killed and started again on the same directory; its store seen from outside.

Uses the public face only: command line, ready line, log lines, the layout `blobs/ALGORITHM/XX/HEX` of the store.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from proxy.oci import Digest
from tests.support.clients import hashed
from tests.support.images import Image
from tests.support.process import Outcome, Server, Spawn, run, spawned
from tests.support.waiting import seen

READY = re.compile(r"cistern ready registry=(?P<registry>\S+) admin=(?P<admin>\S+) control=unix:(?P<control>\S+)")
CISTERN = (sys.executable, "-m", "proxy.cli")
# A number runs every server of these tests with so many serving processes that does not say itself how many.
WORKERS = os.environ.get("CISTERN_TEST_WORKERS")
ROOT = Path(__file__).parents[2]


class CisternProcess:
    """`cistern serve` with a config of the test's own, on ports that it picks itself the first time, and keeps."""

    def __init__(
        self,
        home: Path,
        config: Mapping[str, Any] | str,
        *,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.config_path = home / "cistern.yaml"
        self.cache_dir = home / "cache"
        self.registry_url = self.admin_url = ""
        self.control = Path()
        self.spawn: Spawn = spawned
        self._args = list(args)
        several = {} if WORKERS is None else {"CISTERN_REGISTRY__WORKERS": WORKERS}
        self._env = {"PYTHONPATH": str(ROOT), **several, **(env or {})}
        self._server: Server | None = None
        self._earlier: list[str] = []
        home.mkdir(parents=True, exist_ok=True)
        self.configure(config)

    def configure(self, config: Mapping[str, Any] | str) -> None:
        """Write the config file; a running server hears of it by SIGHUP or by watching."""
        text = config if isinstance(config, str) else yaml.safe_dump(dict(config), sort_keys=False)
        self.config_path.write_text(text)

    @property
    def netloc(self) -> str:
        """HOST:PORT of the registry address, for clients that want no scheme."""
        return self.registry_url.partition("://")[2]

    @property
    def pid(self) -> int | None:
        return self._server.pid if self._server is not None else None

    async def start(self, *, timeout_s: float = 20.0) -> "CisternProcess":
        """Start it and wait for its ready line; a second start listens where the first did."""
        assert self._server is None, "cistern runs already"
        listen = self.registry_url.partition("://")[2] or "127.0.0.1:0"
        admin = self.admin_url.partition("://")[2] or "127.0.0.1:0"
        server = Server(
            [
                *CISTERN, "serve", "--config", self.config_path, "--cache-dir", self.cache_dir,
                "--listen", listen, "--admin", admin, "--log-format", "json", *self._args,
            ],
            env=self._env,
            cwd=self.home,
            spawn=self.spawn,
        )  # fmt: skip
        line = await asyncio.to_thread(server.ready, lambda line: READY.match(line) is not None, timeout_s=timeout_s)
        match = READY.match(line)
        assert match is not None
        self._server = server
        self.registry_url, self.admin_url = match["registry"].rstrip("/"), match["admin"].rstrip("/")
        self.control = Path(match["control"])
        return self

    @property
    def has_ended(self) -> bool:
        """Whether a server that was started is gone by itself."""
        return self._server is not None and self._server.returncode is not None

    async def kill(self) -> None:
        """SIGKILL: what it kept on disk is all that is left of it."""
        await self._end(signal.SIGKILL, 5.0)

    async def terminate(self, *, grace_s: float = 30.0) -> int:
        """SIGTERM, and wait until it has drained; its exit code."""
        return await self._end(signal.SIGTERM, grace_s)

    async def ended(self, *, timeout_s: float = 10.0) -> int:
        """Wait until it has ended by itself, or by a signal of the test's; its exit code."""
        assert self._server is not None, "cistern does not run"
        server, self._server = self._server, None
        code = await asyncio.to_thread(server.wait, timeout_s)
        self._earlier += server.lines
        return code

    async def _end(self, number: signal.Signals, grace_s: float) -> int:
        assert self._server is not None, "cistern does not run"
        server, self._server = self._server, None
        code = await asyncio.to_thread(server.stop, number, grace_s=grace_s)
        self._earlier += server.lines
        return code

    async def __aenter__(self) -> "CisternProcess":
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self.terminate()

    def freeze(self) -> None:
        """SIGSTOP: it still accepts connections (the kernel does), and answers nothing."""
        assert self._server is not None
        self._server.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._server is not None
        self._server.send(signal.SIGCONT)

    def reload(self) -> None:
        """SIGHUP."""
        assert self._server is not None
        self._server.send(signal.SIGHUP)

    # What it said

    def output(self) -> str:
        """Everything it wrote, on either stream, in all its lives."""
        return "\n".join(self._earlier + (self._server.lines if self._server is not None else []))

    def log_lines(self) -> list[dict[str, Any]]:
        """Its structured log lines."""
        return [json.loads(line) for line in self.output().splitlines() if line.startswith("{")]

    @property
    def said(self) -> int:
        """How many lines it has written in this life."""
        return len(self._server.lines) if self._server is not None else 0

    async def logged(
        self, wanted: Callable[[dict[str, Any]], bool], *, since: int = 0, timeout_s: float = 10.0
    ) -> dict[str, Any]:
        """The first log line of this life, from line number `since` on, that is `wanted`; waits for it."""
        assert self._server is not None
        line = await asyncio.to_thread(
            self._server.wait_for,
            lambda text: text.startswith("{") and wanted(json.loads(text)),
            since=since,
            timeout_s=timeout_s,
        )
        return dict(json.loads(line))

    async def command(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Outcome:
        """Another `cistern` command, talking to this server by its control socket."""
        talking = {"CISTERN_ADMIN": f"unix:{self.control}"} if self.control != Path() else {}
        return await cistern(*arguments, env={**self._env, **talking, **(env or {})}, cwd=self.home)


async def cistern(*arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Outcome:
    """Run a `cistern` command to its end."""
    return await run(*CISTERN, *arguments, env={"PYTHONPATH": str(ROOT), **(env or {})}, cwd=cwd)


# The store, from outside


def stored_path(cache_dir: Path, digest: Digest) -> Path:
    """Where a blob's file stands when it is here (contract section 3: its bytes and nothing else)."""
    return cache_dir / "blobs" / digest.algorithm / digest.encoded[:2] / digest.encoded


def stored(cache_dir: Path) -> set[Digest]:
    """The digests that are visible in the store."""
    files = (path for path in (cache_dir / "blobs").rglob("*") if path.is_file())
    return {Digest(path.parent.parent.name, path.name) for path in files}


def assert_store_true(cache_dir: Path) -> None:
    """Every visible blob has the digest of its name: nothing partial, nothing wrong."""
    hashed({digest: stored_path(cache_dir, digest) for digest in stored(cache_dir)})


async def image_kept(cache_dir: Path, image: Image, *, timeout_s: float = 20.0) -> None:
    """Wait until the store has all of an image: the commit of a blob comes after its last byte has left. Re-hashed."""
    wanted = [stored_path(cache_dir, blob.digest) for blob in (*image.all_manifests(), *image.all_blobs())]
    await seen(lambda: all(path.is_file() for path in wanted), within_s=timeout_s)
    assert_image_whole(cache_dir, image)


def assert_image_whole(cache_dir: Path, images: Iterable[Image] | Image) -> None:
    """Each manifest and blob that the images reach is in the store, re-hashed."""
    for image in [images] if isinstance(images, Image) else images:
        everything = (*image.all_manifests(), *image.all_blobs())
        hashed({blob.digest: stored_path(cache_dir, blob.digest) for blob in everything})
