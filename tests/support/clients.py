"""Real clients from Debian: containerd with ctr, skopeo, podman. Each private to its test, each call with its outcome.

A pull's storage is looked at afterwards through the client's own commands, or re-hashed from its files. Nothing here
knows Cistern: a client is told only which addresses to ask.
"""

import asyncio
import hashlib
import json
import re
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.oci import Digest
from tests.support.images import Blob, Image
from tests.support.process import Outcome, Server, run

CONTAINERD = """\
version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = [{disabled}]
[grpc]
  address = "{home}/c.sock"
[ttrpc]
  address = "{home}/t.sock"
"""
# Everything but content, metadata, diff and the native snapshotter: a start takes a tenth of a second.
DISABLED = (
    "io.containerd.grpc.v1.cri",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.overlayfs",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.tracing",
    "io.containerd.tracing.processor.v1.otlp",
)
POLICY = {"default": [{"type": "insecureAcceptAnything"}]}


@dataclass(frozen=True, slots=True)
class Mirror:
    """One `[host]` of a hosts.toml. `dial_timeout` takes effect from containerd 2.1 on; older ones ignore it."""

    url: str
    capabilities: tuple[str, ...] = ("pull", "resolve")
    ca: Path | None = None
    override_path: bool = False
    dial_timeout: str | None = None

    def lines(self) -> list[str]:
        """Its part of the file."""
        found = [f'[host."{self.url}"]', f"  capabilities = {json.dumps(list(self.capabilities))}"]
        found += [f'  ca = "{self.ca}"'] if self.ca else []
        found += ["  override_path = true"] if self.override_path else []
        found += [f'  dial_timeout = "{self.dial_timeout}"'] if self.dial_timeout else []
        return found


def write_hosts(hosts_dir: Path, namespace: str, mirrors: Sequence[Mirror], *, server: str | None = None) -> Path:
    """Write `hosts_dir/NAMESPACE/hosts.toml` (`_default` matches every registry) and return `hosts_dir`.

    `server` is where containerd goes when no mirror serves; without it, the registry of the image's name.
    """
    lines = [f'server = "{server}"'] if server else []
    for mirror in mirrors:
        lines += mirror.lines()
    folder = hosts_dir / namespace
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts.toml").write_text("\n".join(lines) + "\n")
    return hosts_dir


class Containerd:
    """A containerd of one's own: root, state and socket under `home`, whose path must be short (socket names)."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._server: Server | None = None

    @property
    def pid(self) -> int | None:
        return self._server.pid if self._server is not None else None

    async def start(self) -> None:
        """Start it, and return when it serves."""
        self.home.mkdir(parents=True, exist_ok=True)
        config = self.home / "config.toml"
        config.write_text(CONTAINERD.format(home=self.home, disabled=", ".join(f'"{name}"' for name in DISABLED)))
        server = Server(["containerd", "--config", config, "--log-level", "info"])
        await asyncio.to_thread(server.ready, lambda line: "containerd successfully booted" in line)
        self._server = server

    async def stop(self) -> None:
        """Kill it and drop all it stored; the next `start` is a fresh node."""
        if self._server is not None:
            await asyncio.to_thread(self._server.stop, signal.SIGKILL)
            self._server = None
        await asyncio.to_thread(shutil.rmtree, self.home, ignore_errors=True)

    async def fresh(self) -> None:
        """Become a node that has pulled nothing yet."""
        await self.stop()
        await self.start()

    async def ctr(self, *arguments: str | Path, timeout_s: float = 60.0) -> Outcome:
        """Any ctr command, in the namespace `test`."""
        return await run("ctr", "--address", self.home / "c.sock", "-n", "test", *arguments, timeout_s=timeout_s)

    async def pull(
        self, reference: str, *, hosts_dir: Path, all_platforms: bool = False, timeout_s: float = 60.0
    ) -> Outcome:
        """`ctr images pull` of `HOST/REPOSITORY:TAG` by `hosts_dir`, unpacked by the native snapshotter."""
        platforms = ["--all-platforms"] if all_platforms else []
        return await self.ctr(
            "images", "pull", "--snapshotter", "native", *platforms, "--hosts-dir", hosts_dir, reference,
            timeout_s=timeout_s,
        )  # fmt: skip

    async def images(self) -> dict[str, str]:
        """The images by name, with the digest each name stands for."""
        listed = (await self.ctr("images", "ls")).check().output
        return dict(re.findall(r"^(\S+)\s+\S+\s+(sha\d+:[0-9a-f]+)\s", listed, re.MULTILINE))

    async def content(self) -> dict[str, int]:
        """What its content store holds: digest -> size in bytes."""
        listed = (await self.ctr("content", "ls")).check().output
        digests = re.findall(r"^(sha\d+:[0-9a-f]+)\s", listed, re.MULTILINE)
        return {digest: self.path_of(Digest.parse(digest)).stat().st_size for digest in digests}

    def path_of(self, digest: Digest) -> Path:
        """The file of one blob in its content store."""
        home = self.home / "root/io.containerd.content.v1.content/blobs"
        return home / digest.algorithm / digest.encoded

    async def holds(self, image: Image) -> None:
        """Assert that every manifest and blob of `image` is in its content store, re-hashed."""
        await asyncio.to_thread(hashed, {blob.digest: self.path_of(blob.digest) for blob in contents(image)})


async def skopeo_copy(
    source: str,
    target: Path,
    *,
    registries: Path | None = None,
    all_images: bool = False,
    credentials: str | None = None,
    ca: Path | None = None,
    timeout_s: float = 60.0,
) -> Outcome:
    """`skopeo copy docker://SOURCE dir:TARGET`; plain HTTP is allowed. `registries` is a registries.conf,
    `credentials` NAME:PASSWORD.
    """
    options = ["--all"] if all_images else []
    options += ["--src-creds", credentials] if credentials else []
    return await skopeo(
        "copy", *options, "--src-tls-verify=false" if ca is None else "--src-tls-verify=true",
        f"docker://{source}", f"dir:{target}", registries=registries, ca=ca, timeout_s=timeout_s,
    )  # fmt: skip


async def skopeo(
    *arguments: str | Path, registries: Path | None = None, ca: Path | None = None, timeout_s: float = 60.0
) -> Outcome:
    """Any skopeo command, without the machine's configuration and credentials."""
    chosen: list[str | Path] = ["--registries-conf", registries] if registries is not None else []
    trusted = {"SSL_CERT_FILE": str(ca)} if ca is not None else {}
    return await run(
        "skopeo", "--insecure-policy", *chosen, *arguments,
        env={"REGISTRY_AUTH_FILE": "/nonexistent/auth.json", **trusted}, timeout_s=timeout_s,
    )  # fmt: skip


def skopeo_holds(folder: Path, image: Image) -> None:
    """Assert that a `dir:` target holds an image's manifest and blobs, re-hashed. Not for a whole index."""
    hashed(
        {blob.digest: folder / blob.digest.encoded for blob in image.blobs} | {image.digest: folder / "manifest.json"}
    )


def write_registries(path: Path, mirrors: Mapping[str, Sequence[str]]) -> Path:
    """A registries.conf: prefix -> mirror locations in order, all plain HTTP; returns `path`."""
    lines: list[str] = ["unqualified-search-registries = []", 'short-name-mode = "disabled"']
    for prefix, locations in mirrors.items():
        lines += ["[[registry]]", f'prefix = "{prefix}"', f'location = "{prefix}"', "insecure = true"]
        for location in locations:
            lines += ["[[registry.mirror]]", f'location = "{location}"', "insecure = true"]
    path.write_text("\n".join(lines) + "\n")
    return path


class Podman:
    """podman with a vfs storage of its own under `home`; needs no daemon."""

    def __init__(self, home: Path) -> None:
        self.home = home

    async def podman(self, *arguments: str | Path, timeout_s: float = 60.0) -> Outcome:
        """Any podman command."""
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "policy.json").write_text(json.dumps(POLICY))
        (self.home / "auth.json").write_text("{}")
        registries = self.home / "registries.conf"
        if not registries.exists():
            write_registries(registries, {})
        return await run(
            "podman", "--root", self.home / "root", "--runroot", self.home / "run", "--tmpdir", self.home / "tmp",
            "--storage-driver", "vfs", "--events-backend", "none", "--cgroup-manager", "cgroupfs",
            *arguments,
            env={
                "CONTAINERS_REGISTRIES_CONF": str(registries),
                "REGISTRY_AUTH_FILE": str(self.home / "auth.json"),
                "XDG_RUNTIME_DIR": str(self.home),
            },
            timeout_s=timeout_s,
        )  # fmt: skip

    def mirrors(self, mirrors: Mapping[str, Sequence[str]]) -> None:
        """Pull by these mirrors from now on (see `write_registries`)."""
        self.home.mkdir(parents=True, exist_ok=True)
        write_registries(self.home / "registries.conf", mirrors)

    async def pull(self, reference: str, *, timeout_s: float = 60.0) -> Outcome:
        """`podman pull`; its store keeps layers unpacked, checked against their digests while they arrive."""
        return await self.podman(
            "pull", "--tls-verify=false", "--signature-policy", self.home / "policy.json", reference,
            timeout_s=timeout_s,
        )  # fmt: skip

    async def images(self) -> dict[str, str]:
        """Image names with the digest podman recorded."""
        listed = await self.podman("images", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}", "--noheading")
        return dict(re.findall(r"^(\S+) (sha\d+:[0-9a-f]+)$", listed.check().output, re.MULTILINE))

    async def remove(self) -> None:
        """Drop all it stored."""
        await asyncio.to_thread(shutil.rmtree, self.home, ignore_errors=True)


def contents(image: Image) -> list[Blob]:
    """Everything that is content-addressed in an image: manifests, configs, layers."""
    return [*image.all_manifests(), *image.all_blobs()]


def hashed(files: Mapping[Digest, Path]) -> None:
    """Assert that each file's bytes have its digest."""
    for digest, path in files.items():
        assert path.is_file(), f"{digest} is missing: {path}"
        with path.open("rb") as file:
            found = hashlib.file_digest(file, digest.algorithm).hexdigest()
        assert found == digest.encoded, f"{path} has {digest.algorithm}:{found}, not {digest}"
