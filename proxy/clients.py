"""The files that point a client at Cistern: containerd, Docker, BuildKit, Podman (CRI-O, skopeo) and k3s.

Pure: an address and the registries to mirror -> file name and text. Knows the clients' formats; nothing of our own
config, and writes no file. Each client has its own way to say which registry is meant: containerd, Docker, BuildKit and
k3s send `?ns=REGISTRY`, the containers/image family puts the registry in front of the path.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from proxy.errors import ConfigInvalid


@dataclass(frozen=True, slots=True)
class Mirror:
    """Where clients reach Cistern: `http://cache.example:5090`."""

    scheme: str
    host: str  # with its port, as clients write it

    @classmethod
    def parse(cls, url: str) -> "Mirror":
        """Refuses what not every client can use: another scheme, a login, a path, a query (ConfigInvalid)."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as cause:
            raise ConfigInvalid([f"{url!r} is not a URL: {cause}"]) from cause
        is_plain = not (parts.username or parts.query or parts.fragment or parts.path.strip("/"))
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or not is_plain
            or set(url) & set("\"'\\ \t\r\n")
        ):
            raise ConfigInvalid([f"{url!r} is not http://HOST:PORT or https://HOST:PORT, and nothing more"])
        name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(parts.scheme, name if port is None else f"{name}:{port}")

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def is_plain_http(self) -> bool:
        return self.scheme == "http"


def containerd(mirror: Mirror, registries: Sequence[str]) -> dict[str, str]:
    """One `_default` entry stands for every registry that has no folder of its own.

    Source: containerd docs/hosts.md. `dial_timeout` arrived in 2.1.0 (containerd#11106); earlier versions skip
    the key (measured with 1.6.20) and wait 30 s for an address that swallows packets.
    """
    return {
        "certs.d/_default/hosts.toml": f"""\
# containerd reads this for every registry without a folder of its own here. It needs
#   [plugins."io.containerd.cri.v1.images".registry]    (containerd 1.x: [plugins."io.containerd.grpc.v1.cri".registry])
#     config_path = "/etc/containerd/certs.d"
# in its config.toml, or `--hosts-dir /etc/containerd/certs.d` with ctr and nerdctl. No restart when this file changes.
# There is no `server` line: when Cistern is away or has no rule for it, the registry itself is asked.
[host."{mirror.url}"]
  capabilities = ["pull", "resolve"]
  # How long to wait for Cistern's address before asking the registry itself. Known to containerd 2.1 and later; earlier
  # versions skip it and wait 30s.
  dial_timeout = "1s"
"""
    }


def docker(mirror: Mirror, registries: Sequence[str]) -> dict[str, str]:
    """`registry-mirrors` is for Docker Hub alone; with the containerd store (29 and later) `certs.d` works as well.

    Merge it into a daemon.json that is there already: JSON has no room for this remark.
    """
    return {"daemon.json": json.dumps({"registry-mirrors": [mirror.url]}, indent=2) + "\n"}


def buildkit(mirror: Mirror, registries: Sequence[str]) -> dict[str, str]:
    """BuildKit has no entry for "all others": each registry is named. It sends `ns` to a mirror.

    Source: BuildKit docs/buildkitd.toml.md. `http` belongs to the mirror's own entry, not to the mirrored registry's.
    """
    mirrored = "".join(f'\n[registry."{registry}"]\n  mirrors = ["{mirror.host}"]\n' for registry in registries)
    plain = f'\n[registry."{mirror.host}"]\n  http = true\n' if mirror.is_plain_http else ""
    head = """\
# BuildKit asks Cistern first, and the registry itself when that fails. buildkitd reads this at its start:
# /etc/buildkit/buildkitd.toml, or `docker buildx create --buildkitd-config buildkitd.toml`.
"""
    return {"buildkitd.toml": head + mirrored + plain}


def podman(mirror: Mirror, registries: Sequence[str]) -> dict[str, str]:
    """Also for CRI-O, Buildah and skopeo: they send no `ns`, so the registry stands in the mirror's path.

    Source: containers-registries.conf(5).
    """
    insecure = "insecure = true # Cistern is spoken to by plain http\n" if mirror.is_plain_http else ""
    mirrored = "".join(
        f"""
[[registry]]
prefix = "{registry}"
location = "{registry}"
[[registry.mirror]]
location = "{mirror.host}/{registry}"
{insecure}"""
        for registry in registries
    )
    head = """\
# Podman, CRI-O, Buildah and skopeo ask Cistern first, and the registry itself when that has no manifest to give.
"""
    return {"registries.conf.d/050-cistern.conf": head + mirrored}


def k3s(mirror: Mirror, registries: Sequence[str]) -> dict[str, str]:
    """k3s and RKE2 write containerd's files from this one; `*` is every registry. Source: k3s, "Private Registry"."""
    return {
        "registries.yaml": f"""\
# k3s (/etc/rancher/k3s) and RKE2 (/etc/rancher/rke2) make containerd's hosts.toml files from this one at their start.
# The "*" entry needs a release of March 2024 or later; before that, name each registry.
# The registry itself stays the last resort.
mirrors:
  "*":
    endpoint:
      - "{mirror.url}"
"""
    }


CLIENTS: Final[dict[str, Callable[[Mirror, Sequence[str]], dict[str, str]]]] = {
    "containerd": containerd,
    "docker": docker,
    "buildkit": buildkit,
    "podman": podman,
    "k3s": k3s,
}
# Where each client looks: the names that the functions above give are relative to these.
FOLDERS: Final[dict[str, str]] = {
    "containerd": "/etc/containerd",
    "docker": "/etc/docker",
    "buildkit": "/etc/buildkit",
    "podman": "/etc/containers",
    "k3s": "/etc/rancher/k3s",
}


def client_files(client: str, url: str, registries: Sequence[str]) -> dict[str, str]:
    """The files of one of CLIENTS as absolute path -> text; ConfigInvalid for a URL that clients cannot use."""
    files = CLIENTS[client](Mirror.parse(url), registries)
    return {f"{FOLDERS[client]}/{name}": text for name, text in files.items()}
