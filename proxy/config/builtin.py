"""What is there without being written down: the well-known public registries, and defaults that depend on the machine.

All of it is filled into the tree before validation, in the file's own words, so that it passes the same checks.
"""

import os
import re
import socket
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Final

from proxy.config import units
from proxy.config.tree import Tree

WELL_KNOWN: Final[dict[str, dict[str, object]]] = {
    "docker.io": {
        # docker.io itself is a web page; the registry's own name and the oldest one are what some clients send.
        "endpoints": [{"url": "https://registry-1.docker.io"}],
        "aliases": ["index.docker.io", "registry-1.docker.io"],
        "official_prefix": "library",
    },
    "ghcr.io": {"endpoints": [{"url": "https://ghcr.io"}]},
    "quay.io": {"endpoints": [{"url": "https://quay.io"}]},
    "mcr.microsoft.com": {"endpoints": [{"url": "https://mcr.microsoft.com"}]},
    "registry.k8s.io": {"endpoints": [{"url": "https://registry.k8s.io"}]},
    "gcr.io": {"endpoints": [{"url": "https://gcr.io"}]},
    "public.ecr.aws": {"endpoints": [{"url": "https://public.ecr.aws"}]},
    "nvcr.io": {"endpoints": [{"url": "https://nvcr.io"}]},
    "registry.gitlab.com": {"endpoints": [{"url": "https://registry.gitlab.com"}]},
}

# By endpoint: the other hosts that a pull from a well-known registry reaches, its token realm and where its redirects
# for blobs lead. For firewalls only (`check --egress`): the list follows the vendors' allow-list pages and is no trust.
OTHER_HOSTS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "https://registry-1.docker.io": (
        ("auth.docker.io:443", "tokens"),
        ("production.cloudflare.docker.com:443", "blobs"),
        ("production.cloudfront.docker.com:443", "blobs"),
        ("docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com:443", "blobs"),
    ),
    "https://ghcr.io": (("pkg-containers.githubusercontent.com:443", "blobs"),),
    "https://quay.io": (
        ("cdn.quay.io:443", "blobs"),
        *((f"cdn0{n}.quay.io:443", "blobs") for n in range(1, 7)),
    ),
    "https://mcr.microsoft.com": (("*.data.mcr.microsoft.com:443", "blobs"),),
    "https://registry.k8s.io": (
        ("*.pkg.dev:443", "manifests and tokens, by region"),
        ("*.amazonaws.com:443", "blobs, by region (prod-registry-k8s-io-*)"),
    ),
    "https://gcr.io": (("storage.googleapis.com:443", "blobs"), ("*.pkg.dev:443", "blobs")),
    "https://public.ecr.aws": (("*.cloudfront.net:443", "blobs"),),
    "https://nvcr.io": (("authn.nvidia.com:443", "tokens"), ("*.nvcr.io:443", "blobs")),
    "https://registry.gitlab.com": (
        ("gitlab.com:443", "tokens"),
        ("cdn.registry.gitlab-static.net:443", "blobs"),
        ("storage.googleapis.com:443", "blobs"),
    ),
}


def fill(tree: Tree, environ: Mapping[str, str]) -> None:
    """Put every default that depends on the machine or on other keys into the tree."""
    tree.value["upstreams"] = upstreams = _upstreams(tree)
    registry = tree.value.setdefault("registry", None) or {}
    if isinstance(registry, dict):
        registry.setdefault("name", _host_name())
        # The bare form is Docker Engine's: with other upstreams only, there is nowhere for it to lead.
        registry.setdefault("default_upstream", "docker.io" if "docker.io" in upstreams else None)
        tree.value["registry"] = registry
    cache = tree.value.setdefault("cache", None) or {}
    if isinstance(cache, dict):
        cache.setdefault("directory", str(cache_directory(environ, is_root=os.geteuid() == 0)))
        tree.value["cache"] = cache


def _upstreams(tree: Tree) -> dict[str, object]:
    """The upstreams given, each with endpoints; or all well-known ones; or, with `builtin: true`, both.

    An entry for a well-known name that gives no endpoints is that registry, adjusted: it keeps its aliases and prefix.
    """
    given = tree.value.get("upstreams")
    if given is None:
        return deepcopy({**WELL_KNOWN})
    if not isinstance(given, dict):
        tree.refuse(("upstreams",), "must be a map of upstreams by name")
        return {}
    found: dict[str, object] = {name: _completed(name, item) for name, item in given.items() if name != "builtin"}
    try:
        beside = units.flag(given.get("builtin", False))
    except ValueError as cause:
        tree.refuse(("upstreams", "builtin"), str(cause))
        beside = False
    if beside:
        claimed = _claimed(found)
        for name, item in WELL_KNOWN.items():
            if not claimed & _claimed({name: item}):
                found[name] = deepcopy(item)
    return found


def _completed(name: str, item: object) -> object:
    if item is None:
        item = {}
    if not isinstance(item, dict) or "endpoints" in item:
        return item
    known = deepcopy(WELL_KNOWN.get(name.lower(), {"endpoints": [{"url": f"https://{name}"}]}))
    return {**known, **item}


def _claimed(upstreams: Mapping[str, object]) -> set[str]:
    """Every name and alias, as far as they can be read."""
    names: set[str] = set()
    for name, item in upstreams.items():
        aliases = item.get("aliases") if isinstance(item, dict) else None
        for written in (name, *(aliases if isinstance(aliases, list) else ())):
            try:
                names.add(units.host(written))
            except ValueError:
                continue  # validation says what is wrong with it
    return names


def _host_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname()).lstrip("-")
    return name[:64] or "cistern"


def cache_directory(environ: Mapping[str, str], *, is_root: bool) -> Path:
    """Where the cache stands when nobody says: the system's place for root, else the user's cache folder."""
    if is_root:
        return Path("/var/lib/cistern")
    base = environ.get("XDG_CACHE_HOME", "")
    # The XDG base directory spec: a relative path there is invalid and ignored.
    return (Path(base) if base.startswith("/") else Path(environ.get("HOME") or Path.home()) / ".cache") / "cistern"
