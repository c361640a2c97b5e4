"""The files that a configuration is made of, and whether they are still the same.

A look by name, every second, instead of events from the kernel: it follows a symbolic link that was swapped (Kubernetes
mounts), sees a file replaced or its whole directory, works on network and overlay file systems, which tell no events,
and needs none of the inotify handles that a busy node runs out of. Each look costs one `stat` per file.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from proxy.config import Config, load, warnings

# What tells one content of a name from another: device, inode, time of change in nanoseconds, size. None: not there.
Mark = tuple[int, int, int, int] | None
Marks = Mapping[Path, Mark]


class Source:
    """Where a configuration comes from: `path` (None: built in), the environment, and flags as `config.load` has them.

    `marks` are the file's own at the last load, taken before it was read.
    """

    def __init__(
        self, path: Path | None, environ: Mapping[str, str], flags: Mapping[str, tuple[str, str]] | None = None
    ) -> None:
        self._path = path
        self._environ = environ
        self._flags = flags or {}
        self.marks: dict[Path, Mark] = {}

    def load(self) -> Config:
        """The configuration as it stands there now. Blocks; raises ConfigInvalid."""
        self.marks = look(self.files())
        return load(self._path, self._environ, self._flags)

    def cautions(self, config: Config) -> list[str]:
        """What is allowed in it but deserves a word. Blocks."""
        return warnings(config, self._environ)

    def files(self, config: Config | None = None) -> frozenset[Path]:
        """The file itself, and those that `config` names."""
        own = frozenset[Path]() if self._path is None else frozenset({self._path})
        return own if config is None else own | named_in(config)


def named_in(config: Config) -> frozenset[Path]:
    """Passwords, authorities, the certificate and key of the registry address, and the keys of the data address."""
    tls = config.registry.tls
    named = [credentials.password.file for credentials in config.credentials.values()]
    named += [upstream.tls.ca for upstream in config.upstreams.values()]
    named += [] if tls is None else [tls.certificate, tls.key]
    named += [] if config.blobs.key is None else [config.blobs.key.file]
    return frozenset(path for path in named if path is not None)


def mark(path: Path) -> Mark:
    """What stands at `path` now, links followed. Blocks."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def look(paths: Iterable[Path]) -> dict[Path, Mark]:
    """The marks of several files. Blocks."""
    return {path: mark(path) for path in paths}
